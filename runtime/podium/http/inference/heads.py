"""Heads of requests that the parser has judged before: a client sends the same bytes again and again.

A head is known by all of its bytes, so what the parser made of it once, between two requests of a connection, it would
make of it again; a length above or below the body that came with it is not taken. Bounded, forgotten with the routes.
"""

from typing import NamedTuple

from podium.http.inference.routes import HotRoute

MAX_KNOWN = 512
MAX_KNOWN_BYTES = 1 << 10
"""Of one head; a longer one is parsed each time."""
_END = b"\r\n\r\n"


class KnownHead(NamedTuple):
    """An ordinary request whose connection stays open."""

    route: HotRoute
    body_bytes: int


class KnownHeads:
    """Of one lane, under one table of routes."""

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[HotRoute, bytes] | None:
        """Route and body where `data` is one whole request with a known head."""
        end = data.find(_END, 0, MAX_KNOWN_BYTES) + 4
        known = self._heads.get(data[:end])
        if known is None or len(data) - end != known.body_bytes:
            return None
        return known.route, data[end:]

    def learn(self, data: bytes, route: HotRoute, body_bytes: int) -> None:
        """The parser took `data` for one whole ordinary request, whose head holds nothing but what routes it."""
        end = data.find(_END, 0, MAX_KNOWN_BYTES) + 4
        if end < 4 or len(data) - end != body_bytes:
            return
        if len(self._heads) >= MAX_KNOWN:
            self._heads.clear()  # they change all the time: whoever is steady comes back
        self._heads[data[:end]] = KnownHead(route, body_bytes)

    def clear(self) -> None:
        """Routes have changed."""
        self._heads.clear()
