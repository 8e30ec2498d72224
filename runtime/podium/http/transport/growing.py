"""A body of unknown length, in one slot that grows with it: by the next run of free memory, or by moving once.

A client that sends without a Content-Length can send for ever. So nothing is set apart for what may come; each step
counts against what bodies may hold, and the last one is the size limit.
"""

from podium.http.transport.body import BodyReader
from podium.http.transport.errors import BodyTooLargeError
from podium.http.transport.receiving import BodiesFullError, Receiving
from podium.ipc.arena import Arena, Buffer
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import Tensor
from podium_crds.tensors import DType

FIRST_BYTES = 64 << 10
GROWTH = 4
"""Each step makes the slot so many times as long: the steps of the arena's classes."""


async def read_growing(body: BodyReader, receiving: Receiving) -> Tensor:
    """The rest of the body as UINT8 elements, owned by the caller; on the heap where it is small. Raises
    BodyTooLargeError, Overloaded, ArenaExhausted, ClientGoneError."""
    slot = _GrowingSlot(receiving)
    try:
        limit = min(body.limit_bytes, receiving.limit_bytes)
        filled = 0
        while filled == slot.capacity and filled < limit:
            body.counts.in_copied_bytes += slot.grow(min(limit, max(FIRST_BYTES, GROWTH * filled)))
            filled += await body.read_some(slot.data[filled:])
        if filled == limit and await body.read_some(memoryview(bytearray(1))):
            raise BodyTooLargeError(f"body of more than {limit} bytes")
        return slot.tensor(filled)
    finally:
        slot.close()


class _GrowingSlot:
    """The slot while it is being written."""

    def __init__(self, receiving: Receiving) -> None:
        self._receiving = receiving
        self._buffer: Buffer | None = None
        self._held = 0

    @property
    def data(self) -> memoryview:
        """All of it, writable."""
        return self._buffer.data if self._buffer is not None else memoryview(b"")

    @property
    def capacity(self) -> int:
        """Its length in bytes."""
        return self.data.nbytes

    def grow(self, nbytes: int) -> int:
        """Makes it that long, with what is in it; returns how many bytes had to be copied for that. Raises Overloaded,
        ArenaExhausted."""
        self._take(nbytes - self._held)
        old = self._buffer
        if old is None:
            self._buffer = self._arena.allocate(nbytes)
            return 0
        resized = self._arena.resize(old, nbytes)
        if resized is not None:
            self._buffer = resized
            return 0
        self._buffer = self._arena.allocate(nbytes)
        self._buffer.data[: old.data.nbytes] = old.data
        copied = old.data.nbytes
        old.release()
        return copied

    def tensor(self, nbytes: int) -> Tensor:
        """The first bytes of it, final."""
        buffer = self._buffer
        if buffer is None or nbytes <= INLINE_BYTES:  # it will travel in the message
            return Tensor(DType.UINT8, (nbytes,), memoryview(bytes(self.data[:nbytes])))
        self._buffer = None
        shorter = self._arena.resize(buffer, nbytes)
        assert shorter is not None, "shorter is always possible"
        return self._arena.seal(Tensor(DType.UINT8, (nbytes,), shorter.data, shorter.lease))

    def close(self) -> None:
        """Gives back what no tensor has."""
        self._receiving.give(self._held)
        self._held = 0
        if self._buffer is not None:
            self._buffer.release()
            self._buffer = None

    @property
    def _arena(self) -> Arena:
        return self._receiving.arena

    def _take(self, nbytes: int) -> None:
        try:
            self._receiving.take(nbytes)
        except BodiesFullError as error:
            raise BodiesFullError(f"{error}; a Content-Length would have said so before", 1.0) from error
        self._held += nbytes
