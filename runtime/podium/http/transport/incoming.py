"""A body that goes from its connection into given memory: past uvicorn's buffer, and past the parser where it can.

Once the head of a request has said how long its body is, nothing in the body is for a parser to find: the kernel writes
it where it belongs. What came together with the head is copied there, once. Chunks have to be parsed: two copies.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from podium.http.transport.errors import ClientGoneError

READ_AT_ONCE = 512 << 10
"""Bytes that one connection puts into its target before the loop turns to the others."""

Progress = Callable[[int], None]
"""Told how many more bytes have come. Must not raise."""


class Line(Protocol):
    """The connection of a body."""

    def read_on(self, incoming: "Incoming") -> None:
        """Goes on reading: the body's target has room."""

    def read_no_more(self) -> None:
        """Reads nothing until it is told to."""


class Incoming:
    """The body of one request. Bytes that nobody has asked for yet are held; the connection pauses then."""

    def __init__(self, line: Line, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle
        self.is_claimed = False
        """Whoever has claimed it takes all of the body by `fill`."""
        self.has_ended = False
        self.copied_bytes = 0
        """Counted once for each time that a byte of a filled target was copied on its way from the transport."""
        self._line = line
        self._held: deque[tuple[memoryview, bool]] = deque()
        """Pieces that nobody has taken, and whether the parser copied them out of what the transport gave."""
        self._target = memoryview(b"")
        """What is left to be filled."""
        self._waiter: asyncio.Future[None] | None = None
        self._progress: Progress | None = None
        self._is_lost = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for more."""
        return self._waiter is not None

    @property
    def target(self) -> memoryview:
        """Where the next byte belongs, and all after it that fit."""
        return self._target

    async def fill(self, target: memoryview, progress: Progress) -> int:
        """Fills the target; returns how much of it, less only where the body ends before. Raises ClientGoneError."""
        self._target = target
        self._progress = progress
        try:
            self._take_held()
            if self._target and not self.has_ended:
                await self._filled()
            return target.nbytes - self._target.nbytes
        finally:  # what comes from now on is not for that memory
            self._target, self._progress = memoryview(b""), None

    async def _filled(self) -> None:
        if self._is_lost:
            raise ClientGoneError("the client closed the connection while sending")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            self._line.read_on(self)
            await self._waiter
        finally:
            self._waiter = None
            self._line.read_no_more()

    def came(self, piece: memoryview, *, is_cut: bool) -> None:
        """The transport has brought more; `is_cut`: as a copy that the parser made."""
        self._held.append((piece, is_cut))
        if self._waiter is not None:
            self._take_held()

    def stored(self, nbytes: int) -> None:
        """The kernel has written so many bytes at the beginning of `target`."""
        self._target = self._target[nbytes:]
        self._advanced(nbytes)

    def end(self) -> None:
        """All of it has come."""
        self.has_ended = True
        self._wake()

    def lose(self) -> None:
        """The client has gone."""
        self._is_lost = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ClientGoneError("the client closed the connection while sending"))

    def hand_over(self) -> list[memoryview]:
        """All that is held, for whoever reads the body in another way."""
        pieces = [piece for piece, _ in self._held]
        self._held.clear()
        return pieces

    def _take_held(self) -> None:
        while self._held and self._target:
            piece, is_cut = self._held.popleft()
            size = min(piece.nbytes, self._target.nbytes)
            self._target[:size] = piece[:size]
            self._target = self._target[size:]
            self.copied_bytes += size * (1 + is_cut)
            if size < piece.nbytes:
                self._held.appendleft((piece[size:], is_cut))
            self._advanced(size)

    def _advanced(self, nbytes: int) -> None:
        if self._progress is not None:
            self._progress(nbytes)
        if not self._target:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class StraightIn(asyncio.BufferedProtocol):
    """Stands in for a connection's protocol while the kernel writes a body where it belongs."""

    def __init__(self, usual: asyncio.Protocol, room: Callable[[], memoryview], written: Callable[[int], None]) -> None:
        """`usual`: the protocol that everything but bytes is for. `room`: where the next bytes belong, never empty."""
        self._usual = usual
        self._room = room
        self._written = written

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where the next bytes belong."""
        return self._room()

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        self._written(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """As the usual protocol."""
        self._usual.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """As the usual protocol."""
        return self._usual.eof_received()

    def pause_writing(self) -> None:
        """As the usual protocol."""
        self._usual.pause_writing()

    def resume_writing(self) -> None:
        """As the usual protocol."""
        self._usual.resume_writing()


class HoldingFlow(FlowControl):
    """Flow control that tells when somebody other than an `Incoming` wants to read on."""

    def __init__(self, transport: asyncio.Transport, wanted: Callable[[], None]) -> None:
        super().__init__(transport)
        self._wanted = wanted

    def resume_reading(self) -> None:
        """Reads on, once what is held has been handed over."""
        self._wanted()
        super().resume_reading()
