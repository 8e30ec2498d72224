"""Wait for a fact about the outside world, with a deadline, showing on failure what was seen last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_SHOWN = 4000


class NotSeenError(AssertionError):
    """The fact did not come true in time."""


def eventually(
    what: str, observe: Callable[[], T], holds: Callable[[T], bool], *, timeout: float, every: float = 0.25
) -> T:
    """The first observation for which `holds`; raises NotSeenError with the last one after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        seen = observe()
        if holds(seen):
            return seen
        if time.monotonic() >= deadline:
            raise NotSeenError(f"{what}: not within {timeout:g} s; last seen:\n{shown(seen)}")
        time.sleep(every)


def shown(seen: object) -> str:
    """An observation for a person, cut to a screenful."""
    text = seen if isinstance(seen, str) else json.dumps(seen, indent=1, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n... ({len(text)} characters)"
