"""Connections whose last request was refused for want of room: the next one is read in its turn.

A client that asks again at once is refused again, and every refusal costs the same event loop that others' requests and
answers go through. What of that is unread stays with the kernel, which has TCP slow the client down. So a connection
that was just refused waits behind those refused before it, a few are read at a time, and what refusals cost comes to a
fifth of the loop's time. Where few are refused the rest is over before they can ask again.
"""

import asyncio
from collections import deque
from typing import Protocol

AT_ONCE = 8
"""Connections that are read again in one turn of the loop."""
SHORTEST_REST_S = 0.001
"""What the loop's timers can tell apart."""
REST = 4.0
"""Seconds of rest for each second that refusals took."""


class Refused(Protocol):
    """A connection that is not read from."""

    def read_again(self) -> None:
        """Its turn has come. No effect where it has ended."""


class ReadTurns:
    """The refused connections of one data port. Used from one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Refused] = deque()
        self._is_set = False
        self._rests_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, connection: Refused) -> None:
        """The connection was refused, and is not read from until its turn."""
        self._waiting.append(connection)
        if not self._is_set:
            self._set()

    def took(self, seconds: float) -> None:
        """A refusal kept the loop for so long."""
        self._rests_until = max(self._rests_until, self._loop.time()) + REST * seconds

    def _set(self) -> None:
        self._is_set = True
        rest_s = self._rests_until - self._loop.time()
        if rest_s > 0:
            self._loop.call_later(max(SHORTEST_REST_S, rest_s), self._turn)
        else:
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_set = False
        if self._rests_until <= self._loop.time():
            for _ in range(min(AT_ONCE, len(self._waiting))):
                self._waiting.popleft().read_again()
        if self._waiting:
            self._set()
