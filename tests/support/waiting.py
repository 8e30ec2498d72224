"""Waiting for a fact: a predicate and a deadline, and at the deadline what was seen last."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")
_POLL_S = 0.05


async def eventually(probe: Callable[[], _T | Awaitable[_T]], *, within_s: float = 30.0, what: str = "") -> _T:
    """The first truthy value of `probe`, which may also raise AssertionError for "not yet".

    Raises AssertionError with the last value or error once the time is over.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        seen: object
        try:
            value = probe()
            found = await value if inspect.isawaitable(value) else value
        except AssertionError as exc:
            seen = exc
        else:
            if found:
                return found
            seen = repr(found)
        if loop.time() >= deadline:
            raise AssertionError(f"not within {within_s:g} s: {what or inspect.getsource(probe).strip()}; last: {seen}")
        await asyncio.sleep(_POLL_S)
