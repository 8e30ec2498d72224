"""The arena: one sealed memfd per pod that holds the bytes of every tensor between processes.

Created by the front end, which alone populates it, allocates and frees. It has no name, so that nothing is left of it
after the last process, and its seals make the size final: no mapping can be cut short into a SIGBUS.
"""

import fcntl
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np

from podium.errors import ArenaExhausted, DescriptorError, LeaseError
from podium.ipc.allocator import PAGE, Allocator, ClassStats
from podium.ipc.lease import FRONT_END, Holder, Lease, Ledger, Slot, SlotState
from podium.ipc.tensor import NUMPY_DTYPES, Tensor
from podium_crds.tensors import DType

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MAX_PROMISE_SHARE = 4
"""The largest promise is one in this many parts of the arena: half of it is for bodies that come in."""
FREED = b"\xdb" * PAGE
"""What debug mode writes over a freed slot."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A writable range for one writer: `data` has exactly the bytes asked for, the lease covers the whole slot."""

    data: memoryview
    lease: Lease

    def release(self) -> None:
        """Gives the range back unused, or ends the writer's part in it."""
        self.lease.release()


class Promise:
    """Bytes of the arena that an admitted request will take, from its admission until they are taken."""

    __slots__ = ("_arena", "_nbytes")

    def __init__(self, arena: "Arena", nbytes: int) -> None:
        self._arena = arena
        self._nbytes = nbytes

    def end(self) -> None:
        """The bytes are taken, or will not be. Idempotent."""
        self._arena.promised_bytes -= self._nbytes
        self._nbytes = 0


@dataclass(frozen=True, slots=True)
class ArenaStats:
    """Use of the arena in bytes, whole and per size class."""

    size_bytes: int
    used_bytes: int
    high_water_bytes: int
    promised_bytes: int
    """What admitted requests will take, beside what is used."""
    slots: int
    classes: tuple[ClassStats, ...]


class Arena:
    """Front end's side of the shared memory. All calls from the event loop's thread."""

    def __init__(self, fd: int, mapping: mmap.mmap, *, debug: bool) -> None:
        """Takes over `fd` and `mapping`; use `create`."""
        self.fd = fd
        self.size_bytes = len(mapping)
        self._mapping = mapping
        self._memory = memoryview(mapping)
        self._address = address_of(self._memory)
        self._allocator = Allocator(self.size_bytes)
        self._high_water = 0
        self.promised_bytes = 0
        self.ledger = Ledger(self._allocator, self._overwrite if debug else None)

    @classmethod
    def create(cls, size_bytes: int, *, debug: bool = False) -> Self:
        """Makes, seals, maps and populates the memory, rounded up to whole pages. Blocking: 0.6 s per GiB.

        `debug` fills freed slots with 0xDB, so that a use after release shows. Raises OSError, MemoryError.
        """
        size = max(PAGE, -(-size_bytes // PAGE) * PAGE)
        fd = os.memfd_create("podium-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
            mapping = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, mapping, debug=debug)

    @property
    def free_bytes(self) -> int:
        """Bytes that no slot has, whether or not they were promised. They need not lie together."""
        return self.size_bytes - self._allocator.used_bytes

    def allocate(self, nbytes: int, holder: Holder = FRONT_END) -> Buffer:
        """A writable range of exactly `nbytes`, 4 KiB aligned. Raises ArenaExhausted."""
        lease = self.ledger.allocate(nbytes, holder)
        self._high_water = max(self._high_water, self._allocator.used_bytes)
        start = lease.slot.offset
        return Buffer(self._memory[start : start + nbytes], lease)

    def resize(self, buffer: Buffer, nbytes: int) -> Buffer | None:
        """The same range, exactly `nbytes` long, in place of `buffer`; None where there is no free memory behind it.
        Only for its writer, before it is sealed, and before anybody else knows of it."""
        if not self.ledger.resize(buffer.lease.slot, nbytes):
            return None
        self._high_water = max(self._high_water, self._allocator.used_bytes)
        start = buffer.lease.slot.offset
        return Buffer(self._memory[start : start + nbytes], buffer.lease)

    def promise(self, nbytes: int) -> Promise:
        """Room for a request's inputs and outputs, kept free of other promises until it is taken: `end` it then.

        Nothing is set apart: what finds no range in the end travels in the message. So a promise of more than a part
        of the arena (MAX_PROMISE_SHARE) counts as that part. Raises ArenaExhausted.
        """
        need = min(nbytes, self.size_bytes // MAX_PROMISE_SHARE)
        free = self.size_bytes - self._allocator.used_bytes - self.promised_bytes
        if need > free:
            raise ArenaExhausted(
                f"the request needs {nbytes} bytes of shared memory for its inputs and outputs, and {max(0, free)} of "
                f"{self.size_bytes} are free; ask again later, or raise sharedMemory.arenaBytes"
            )
        self.promised_bytes += need
        return Promise(self, need)

    def tensor(self, dtype: DType, shape: tuple[int, ...], nbytes: int | None = None) -> Tensor:
        """A tensor to be filled in place, then sealed. BYTES needs `nbytes`. Raises ArenaExhausted."""
        if nbytes is None:
            if dtype is DType.BYTES:
                raise ValueError("a BYTES tensor needs its size in bytes")
            nbytes = prod(shape) * NUMPY_DTYPES[dtype].itemsize
        buffer = self.allocate(nbytes)
        return Tensor(dtype, shape, buffer.data, buffer.lease)

    def seal(self, tensor: Tensor) -> Tensor:
        """The same tensor, final and read-only. Idempotent; a heap tensor is returned as it is."""
        if tensor.lease is None:
            return tensor
        if tensor.lease.slot.state is SlotState.WRITING:
            self.ledger.seal(tensor.lease.slot)
        return Tensor(tensor.dtype, tensor.shape, tensor.data.toreadonly(), tensor.lease)

    def read(self, slot: Slot, offset: int, nbytes: int) -> memoryview:
        """A read-only window, `offset` counted from the slot's start. Raises DescriptorError outside the slot."""
        if slot.state is SlotState.FREE:
            raise LeaseError(f"slot {slot.generation} was freed")
        if offset < 0 or nbytes < 0 or offset + nbytes > slot.capacity:
            raise DescriptorError(f"bytes {offset} to {offset + nbytes} are outside a slot of {slot.capacity}")
        start = slot.offset + offset
        return self._memory[start : start + nbytes].toreadonly()

    def offset_in(self, slot: Slot, data: memoryview) -> int:
        """Where `data`, a window of the arena, begins, counted from the slot's start.

        Raises DescriptorError where it is not within that slot.
        """
        if not data.nbytes:
            return 0
        offset = address_of(data) - self._address - slot.offset
        if offset < 0 or offset + data.nbytes > slot.capacity:
            raise DescriptorError("a tensor's data is not within the slot that its lease covers")
        return offset

    def stats(self) -> ArenaStats:
        """Numbers for metrics."""
        return ArenaStats(
            self.size_bytes,
            self._allocator.used_bytes,
            self._high_water,
            self.promised_bytes,
            sum(1 for _ in self.ledger.slots()),
            self._allocator.stats(),
        )

    def close(self) -> None:
        """Gives the memory up. Views that are still held keep their mapping until they go."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        self._memory.release()
        with suppress(BufferError):  # a response or a test still reads; the mapping ends with its last view
            self._mapping.close()

    def _overwrite(self, slot: Slot) -> None:
        for start in range(slot.offset, slot.offset + slot.capacity, PAGE):
            self._memory[start : start + PAGE] = FREED


def address_of(data: memoryview) -> int:
    """Address of a non-empty buffer, writable or not."""
    address: int = np.frombuffer(data, dtype=np.uint8).__array_interface__["data"][0]
    return address
