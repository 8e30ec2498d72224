"""`DeadlineWatch`: one timer for all requests of a group, at the earliest deadline there is."""

import asyncio
from collections.abc import Callable, Iterable

LEAST_GAP_S = 0.001
"""The loop's clock moves no faster."""


class DeadlineWatch:
    """Calls `expire(now)` when a deadline has passed. Used from one event loop.

    A timer of its own for each request would cost more than many a model.
    """

    def __init__(
        self, clock: Callable[[], float], expire: Callable[[float], None], deadlines: Callable[[], Iterable[float]]
    ) -> None:
        """`deadlines`: of everyone who still waits."""
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._expire = expire
        self._deadlines = deadlines
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: float) -> None:
        """One more request."""
        if self._timer is None or deadline < self._timer.when():
            self.close()
            self._timer = self._loop.call_at(deadline, self._ring)

    def close(self) -> None:
        """Rings no more, until there is another request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        now = self._clock()
        self._expire(now)
        following = min(self._deadlines(), default=None)
        if following is not None:
            self.add(max(following, now + LEAST_GAP_S))
