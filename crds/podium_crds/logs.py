"""The form of a log line, the operator's and the runtime's: an event in snake_case and facts as keys. A leaf.

INFO on transitions, DEBUG for steps, WARNING when someone should look, ERROR when something was lost. Never payloads,
never Secrets. What a library says is wrapped in the same form.
"""

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TextIO

FACTS = "podium_facts"
"""Where a record of the logging module carries the facts."""


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

    def warning(self, event: str, *, error: BaseException | None = None, **facts: object) -> None:
        """Someone should look; `error` adds its traceback."""
        self._emit(logging.WARNING, event, facts, error)

    def error(self, event: str, *, error: BaseException | None = None, **facts: object) -> None:
        """Something was lost; `error` adds its traceback."""
        self._emit(logging.ERROR, event, facts, error)

    def _emit(self, level: int, event: str, facts: dict[str, object], error: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={FACTS: facts}, exc_info=error)


def get_logger(name: str) -> EventLogger:
    """The logger of one module: pass `__name__`."""
    return EventLogger(logging.getLogger(name))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `event`, the facts, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        facts = getattr(record, FACTS, None)
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if facts is None:
            entry |= {"event": "library_message", "message": record.getMessage()}
        else:
            entry |= {"event": record.getMessage(), **facts}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False, separators=(",", ":"))


def set_up(level: str, formatter: logging.Formatter, quiet: Iterable[str], stream: TextIO | None = None) -> None:
    """Make the root logger of this process say its lines so, to stderr if `stream` is None.

    The `quiet` libraries are heard from WARNING on, unless the level is DEBUG: what they do is not an event of ours.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if root.level < logging.WARNING and level.upper() != "DEBUG":
        for library in quiet:
            logging.getLogger(library).setLevel(logging.WARNING)
