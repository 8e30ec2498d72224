"""The worker's side of the arena: checked windows, read-only for inputs, writable for what was granted."""

import ctypes
import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Self

from podium.errors import DescriptorError
from podium.ipc.allocator import PAGE
from podium.ipc.arena import SEALS, address_of
from podium.ipc.descriptor import Descriptor, Inline, SlotRange, TensorRef, check_layout_of
from podium.ipc.tensor import Tensor


class ArenaView:
    """Two mappings of one arena. Inputs come from the one without PROT_WRITE: a model that writes to them faults alone.

    Pages are not populated: they are mapped as they are touched.
    """

    def __init__(self, readable: mmap.mmap, writable: mmap.mmap) -> None:
        """Use `attach`."""
        self._read = memoryview(readable)
        self._write = memoryview(writable)
        self._address = address_of(self._read)
        self._write_address = address_of(self._write)
        self._generations: dict[int, int] = {}
        """slot start → highest generation seen; bounded by the number of pages of the arena."""

    @classmethod
    def attach(cls, fd: int, expected_bytes: int) -> Self:
        """Maps the arena behind `fd` and closes it. Raises DescriptorError: not sealed, or not that size."""
        try:
            if os.fstat(fd).st_size != expected_bytes or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
                raise DescriptorError(f"the arena is not a sealed mapping of {expected_bytes} bytes")
            readable = mmap.mmap(fd, expected_bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
            writable = mmap.mmap(fd, expected_bytes, flags=mmap.MAP_SHARED)
        finally:
            os.close(fd)
        return cls(readable, writable)

    @property
    def nbytes(self) -> int:
        """Size of the arena."""
        return self._read.nbytes

    def input(self, ref: TensorRef, payloads: Sequence[bytes]) -> Tensor:
        """A read-only tensor. Raises DescriptorError for a reference that is stale, out of bounds, or contradictory."""
        if isinstance(ref, Inline):
            if ref.frame >= len(payloads):
                raise DescriptorError(f"payload {ref.frame} of {len(payloads)} does not exist")
            data = memoryview(payloads[ref.frame])
            check_layout_of(ref, data.nbytes)
            return Tensor(ref.dtype, ref.shape, data)
        self._check_slot(ref.start, ref.generation, ref.offset + ref.nbytes)
        check_layout_of(ref, ref.nbytes)
        return Tensor(ref.dtype, ref.shape, self._window(ref.start + ref.offset, ref.nbytes))

    def output(self, grant: SlotRange, offset: int, nbytes: int) -> memoryview:
        """A writable window of a granted slot. Raises DescriptorError outside it."""
        self._check_slot(grant.start, grant.generation, grant.nbytes)
        if offset < 0 or offset + nbytes > grant.nbytes:
            raise DescriptorError(f"bytes {offset} to {offset + nbytes} are outside the {grant.nbytes} granted")
        return self._write[grant.start + offset : grant.start + offset + nbytes]

    def writable(self, grant: SlotRange, offset: int, nbytes: int) -> "ctypes.Array[ctypes.c_char]":
        """As `output`, as an object that lives as long as any array over it, and can be watched."""
        self.output(grant, offset, nbytes)
        return (ctypes.c_char * nbytes).from_buffer(self._write, grant.start + offset)

    def offset_in(self, grant: SlotRange, data: memoryview) -> int | None:
        """Where `data` begins in a granted slot; None where it lies elsewhere."""
        if not data.nbytes:
            return None
        offset = address_of(data) - self._write_address - grant.start
        return offset if offset >= 0 and offset + data.nbytes <= grant.nbytes else None

    def offset_in_input(self, ref: Descriptor, data: memoryview) -> int | None:
        """Where `data` begins in the slot of an input, as descriptors count it; None where it lies elsewhere."""
        offset = address_of(data) - self._address - ref.start
        return offset if ref.offset <= offset and offset + data.nbytes <= ref.offset + ref.nbytes else None

    def _window(self, first: int, nbytes: int) -> memoryview:
        """Read-only bytes whose `obj` lives as long as any array or torch tensor over them, and can be watched.

        A slice of a mapping cannot: numpy keeps what exports the memory alive, and that would be all of the arena.
        """
        if not nbytes:
            return memoryview(b"")
        return memoryview((ctypes.c_char * nbytes).from_address(self._address + first)).cast("B").toreadonly()

    def _check_slot(self, start: int, generation: int, nbytes: int) -> None:
        if start % PAGE or start + nbytes > self._read.nbytes:
            raise DescriptorError(f"slot {start} with {nbytes} bytes is outside an arena of {self._read.nbytes}")
        if generation < self._generations.get(start, 0):
            raise DescriptorError(f"generation {generation} of slot {start} is over")
        self._generations[start] = generation


def describe(slot: SlotRange | Descriptor, offset: int, tensor: Tensor) -> Descriptor:
    """The reference to an output at `offset` of a granted slot, or of the slot of an input."""
    return Descriptor(slot.start, slot.generation, offset, tensor.nbytes, tensor.dtype, tensor.shape)
