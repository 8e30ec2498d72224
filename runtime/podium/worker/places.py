"""Where the outputs of one batch are: in the slot that was granted with it, in place or by one copy each.

An output that is a view of an input is answered with where it lies already, and not copied. What finds no room in the
grant travels in the message. A larger slot is asked for only while nothing was written in the first one, since its
grant ends with the asking.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium.errors import ArenaExhausted, InvalidInput, ModelError
from podium.ipc.descriptor import Descriptor, Inline, SlotRange, TensorRef, aligned
from podium.ipc.protocol import MAX_INLINE_BYTES, Dispatch
from podium.ipc.tensor import NUMPY_DTYPES, Tensor, check_layout, dtype_of
from podium.ipc.view import ArenaView, describe
from podium.worker.held import HeldViews
from podium_crds.tensors import DType

LEAST_SHARE = 8
"""A view of less than one in this many parts of its input is copied: as a reference it would keep the whole slot."""

Asker = Callable[[int, int], SlotRange | None]
"""(batch, bytes) → a larger grant, or None where the arena has no room."""


@dataclass(slots=True)
class Stored:
    """Outputs as the reply gives them. Copies made by the model's own code are not counted."""

    refs: dict[str, TensorRef] = field(default_factory=dict)
    frames: list[bytes] = field(default_factory=list)
    copies: int = 0
    copied_bytes: int = 0

    def add_inline(self, name: str, tensor: Tensor) -> None:
        """Puts one output in the message."""
        self.refs[name] = Inline(len(self.frames), tensor.dtype, tensor.shape)
        self.frames.append(bytes(tensor.data))
        self.count(tensor)

    def count(self, tensor: Tensor) -> None:
        """One output was copied."""
        self.copies += 1
        self.copied_bytes += tensor.nbytes


class OutputPlaces:
    """One batch's slot, filled from its start. Used by one thread."""

    def __init__(self, dispatch: Dispatch, view: ArenaView, held: HeldViews, ask: Asker) -> None:
        self._batch = dispatch.batch
        self._inputs = [] if held.copying else [ref for ref in dispatch.inputs.values() if isinstance(ref, Descriptor)]
        self._grant = dispatch.grant
        self._view = view
        self._held = held
        self._ask = ask
        self._filled = 0
        """Bytes from the slot's start that are given away."""

    def array(self, dtype: DType, shape: tuple[int, ...], inline_bytes: int) -> NDArray[Any]:
        """A writable array for one output: in the slot, or on the heap where it is small or finds no room.

        Raises InvalidInput for a shape that cannot be.
        """
        nbytes = prod(shape) * NUMPY_DTYPES[dtype].itemsize
        check_layout(dtype, shape, nbytes)
        grant = None if nbytes <= inline_bytes or self._held.copying else self._room(nbytes)
        if grant is None:
            return np.empty(shape, NUMPY_DTYPES[dtype])
        window = self._view.writable(grant, self._filled, nbytes)
        self._held.watch(grant.generation, window)
        self._filled += aligned(nbytes)
        return Tensor(dtype, shape, memoryview(window).cast("B")).array()

    def store(self, outputs: Mapping[str, Tensor], inline_bytes: int) -> Stored:
        """Each output in its place, in the order of the model's; what is there already is not copied.

        Raises ArenaExhausted where there is no room for all now, ModelError where there never will be."""
        stored = self._stored(outputs, inline_bytes)
        stored.refs = {name: stored.refs[name] for name in outputs}
        return stored

    def _stored(self, outputs: Mapping[str, Tensor], inline_bytes: int) -> Stored:
        stored = Stored()
        elsewhere: dict[str, Tensor] = {}
        for name, tensor in outputs.items():
            if (ref := self._where(tensor)) is None:
                elsewhere[name] = tensor
            else:
                stored.refs[name] = ref
        total = sum(aligned(tensor.nbytes) for tensor in elsewhere.values())
        if total <= inline_bytes or (grant := self._room(total)) is None:
            if total > MAX_INLINE_BYTES:
                fits = total <= self._view.nbytes
                kind, until = (ArenaExhausted, " now") if fits else (ModelError, "; raise sharedMemory.arenaBytes")
                raise kind(f"outputs of {total} bytes find no room in the shared memory{until}")
            for name, tensor in elsewhere.items():
                stored.add_inline(name, tensor)
            return stored
        for name, tensor in elsewhere.items():
            self._view.output(grant, self._filled, tensor.nbytes)[:] = tensor.data
            stored.refs[name] = describe(grant, self._filled, tensor)
            stored.count(tensor)
            self._filled += aligned(tensor.nbytes)
        return stored

    def _where(self, tensor: Tensor) -> Descriptor | None:
        """The reference to an output that lies in shared memory already: written in place, or a view of an input."""
        if not tensor.nbytes or tensor.dtype is DType.BYTES:  # text was encoded for the answer
            return None
        if self._grant is not None and self._filled:
            offset = self._view.offset_in(self._grant, tensor.data)
            if offset is not None:
                return describe(self._grant, offset, tensor)
        for given in self._inputs:
            offset = self._view.offset_in_input(given, tensor.data)
            if offset is not None:
                return describe(given, offset, tensor) if _may_stay(given, offset, tensor) else None
        return None

    def _room(self, nbytes: int) -> SlotRange | None:
        """The grant, once it has `nbytes` bytes free behind what is filled."""
        if self._grant is not None and self._filled + nbytes <= self._grant.nbytes:
            return self._grant
        if self._filled or nbytes > self._view.nbytes:
            return None
        self._grant = self._ask(self._batch, aligned(nbytes))
        return self._grant


def _may_stay(given: Descriptor, offset: int, tensor: Tensor) -> bool:
    """Whether a view of an input is worth its slot, and lies as its readers need it."""
    return tensor.nbytes * LEAST_SHARE >= given.nbytes and offset % NUMPY_DTYPES[tensor.dtype].itemsize == 0


def dtype_for(name: str, declared: Mapping[str, DType], wanted: object) -> DType:
    """The element type of an output written in place. Raises ValueError."""
    try:
        dtype = declared.get(name) if wanted is None else dtype_of(np.empty(0, np.dtype(wanted)))  # type: ignore[call-overload]
    except (TypeError, InvalidInput) as error:
        raise ValueError(f"output {name!r}: {error}") from error
    if dtype is None:
        raise ValueError(f"output {name!r} is not declared; give ctx.output() a dtype")
    if dtype is DType.BYTES:
        raise ValueError(f"output {name!r} is BYTES, whose size is not known before; return it")
    return dtype
