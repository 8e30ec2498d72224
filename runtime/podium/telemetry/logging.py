"""Structured logs: an event in snake_case and facts as keys, one JSON object a line (or a short line on a terminal).

Payloads never go into a log. Levels: INFO on transitions, DEBUG for steps, WARNING when someone should look, ERROR when
something was lost.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

import orjson

_FACTS = "podium_facts"


class EventLogger:
    """Logs events with facts: `log.info("revision_ready", model="minilm", revision="minilm-7f")`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **facts: object) -> None:
        """A step."""
        self._emit(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: object) -> None:
        """A transition."""
        self._emit(logging.INFO, event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """Someone should look."""
        self._emit(logging.WARNING, event, facts)

    def error(self, event: str, *, error: BaseException | None = None, **facts: object) -> None:
        """Something was lost; `error` adds its traceback."""
        self._emit(logging.ERROR, event, facts, error)

    def _emit(self, level: int, event: str, facts: dict[str, object], error: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={_FACTS: facts}, exc_info=error)


def get_logger(name: str) -> EventLogger:
    """The logger of one module: pass `__name__`."""
    return EventLogger(logging.getLogger(name))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, keys `time`, `level`, `logger`, `event` and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, _FACTS, {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


class TerminalFormatter(logging.Formatter):
    """A short line for people: time, level when it matters, event, facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, a traceback below it."""
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        facts: dict[str, object] = getattr(record, _FACTS, {})
        level = "" if record.levelno <= logging.INFO else f" {record.levelname}"
        line = f"{clock}{level} {record.getMessage()}" + "".join(f" {key}={value}" for key, value in facts.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: str, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Sets up the root logger of this process. Called once, by the process's entry point."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TerminalFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
