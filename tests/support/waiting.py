"""Waiting for a fact: a predicate and a deadline, and at the deadline what was seen last."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

_T = TypeVar("_T")
_POLL_S = 0.05


@overload
async def eventually(
    probe: Callable[[], Coroutine[Any, Any, _T | None]], *, within_s: float = ..., what: str = ...
) -> _T: ...


@overload
async def eventually(probe: Callable[[], _T | None], *, within_s: float = ..., what: str = ...) -> _T: ...


async def eventually(probe: Callable[[], Any], *, within_s: float = 30.0, what: str = "") -> Any:
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
