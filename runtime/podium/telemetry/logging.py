"""Logs of the runtime: one JSON object a line, or a short line on a terminal."""

import logging
from datetime import UTC, datetime
from typing import TextIO

from podium_crds.logs import FACTS, EventLogger, JsonFormatter, get_logger, set_up

__all__ = ["EventLogger", "configure", "get_logger"]

_QUIET = ("httpx", "httpcore", "uvicorn.error", "uvicorn.access")


class TerminalFormatter(logging.Formatter):
    """A short line for people: time, level when it matters, event, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, a traceback below it."""
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        facts: dict[str, object] = getattr(record, FACTS, {})
        level = "" if record.levelno <= logging.INFO else f" {record.levelname}"
        line = f"{clock}{level} {record.getMessage()}" + "".join(f" {key}={value}" for key, value in facts.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: str, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Sets up the root logger of this process. Called once, by the process's entry point."""
    set_up(level, JsonFormatter() if as_json else TerminalFormatter(), _QUIET, stream)
