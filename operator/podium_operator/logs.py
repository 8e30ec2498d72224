"""Logs of the operator: one JSON object a line. A leaf."""

from typing import TextIO

from podium_crds.logs import EventLogger, JsonFormatter, get_logger, set_up

__all__ = ["EventLogger", "configure", "get_logger"]

_QUIET = ("kopf", "aiohttp", "asyncio")


def configure(level: str, *, stream: TextIO | None = None) -> None:
    """Set up the root logger of this process. Called once, by its entry point."""
    set_up(level, JsonFormatter(), _QUIET, stream)
