"""References to tensors as they travel between processes, and what both sides check before they believe one."""

from typing import Annotated

import msgspec

from podium.errors import DescriptorError, InvalidInput
from podium.ipc.lease import Slot
from podium.ipc.tensor import check_layout
from podium_crds.tensors import MAX_DIMS, DType

ALIGNMENT = 64
"""Bytes: tensors that share a slot start at multiples of this."""
MAX_TENSORS = 256
"""Tensors in one direction of one batch."""

Shape = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, lt=2**31)], ...], msgspec.Meta(max_length=MAX_DIMS)]
Name = Annotated[str, msgspec.Meta(max_length=63)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class SlotRange(msgspec.Struct, frozen=True, array_like=True):
    """A whole slot given to a worker to write in: where it starts in the arena, its generation, its size in bytes."""

    start: Count
    generation: Count
    nbytes: Count


class Descriptor(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A tensor in the arena. `offset` counts from the slot's start; at most 64 bytes encoded up to four dimensions."""

    start: Count
    generation: Count
    offset: Count
    nbytes: Count
    dtype: DType
    shape: Shape


class Inline(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A small tensor in payload frame number `frame` of the same message."""

    frame: Annotated[int, msgspec.Meta(ge=0, lt=MAX_TENSORS)]
    dtype: DType
    shape: Shape


TensorRef = Descriptor | Inline
Refs = Annotated[dict[Name, TensorRef], msgspec.Meta(max_length=MAX_TENSORS)]


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up, so that the next tensor in the slot starts aligned."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def grant_of(slot: Slot, nbytes: int) -> SlotRange:
    """The reference that lets a worker write `nbytes` bytes of `slot`."""
    return SlotRange(slot.offset, slot.generation, nbytes)


def check_layout_of(ref: TensorRef, nbytes: int) -> None:
    """Raises DescriptorError where dtype and shape do not take `nbytes` bytes."""
    try:
        check_layout(ref.dtype, ref.shape, nbytes)
    except InvalidInput as error:
        raise DescriptorError(str(error)) from error


def is_within(ref: Descriptor, given: TensorRef) -> bool:
    """Whether an output is a part of this input, and of no other request's bytes in the same slot."""
    return (
        isinstance(given, Descriptor)
        and (ref.start, ref.generation) == (given.start, given.generation)
        and given.offset <= ref.offset
        and ref.offset + ref.nbytes <= given.offset + given.nbytes
    )


def check_granted(ref: Descriptor, grant: SlotRange | None) -> None:
    """What the front end checks of an output that is no part of an input: within the slot it granted, of that
    generation, dtype and shape agree.

    Raises DescriptorError.
    """
    if grant is None:
        raise DescriptorError("an output names a slot, and none was granted")
    if (ref.start, ref.generation) != (grant.start, grant.generation):
        raise DescriptorError(f"an output names slot {ref.start}/{ref.generation}, granted was {grant}")
    if ref.offset + ref.nbytes > grant.nbytes:
        raise DescriptorError(f"an output ends at {ref.offset + ref.nbytes} of {grant.nbytes} granted bytes")
    check_layout_of(ref, ref.nbytes)
