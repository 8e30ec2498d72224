"""Forms one tensor batch of several requests and splits its outputs back: one gather in, one store out.

Inputs are concatenated along dimension 0 straight into one arena slot; a single request whose inputs lie in the arena
already goes as it is. Outputs stay in the slot the worker wrote; each request gets row ranges of it with leases of
their own. Nothing fails for want of arena room: what finds none travels in the message.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from podium.batching.queue import Waiting
from podium.errors import ArenaExhausted, DescriptorError, InvalidInput, ModelError
from podium.ipc.arena import Arena
from podium.ipc.descriptor import Descriptor, Inline, SlotRange, TensorRef, aligned, check_granted, check_layout_of
from podium.ipc.lease import Holder, Lease, Slot
from podium.ipc.protocol import MAX_INLINE_BYTES
from podium.ipc.tensor import NUMPY_DTYPES, Tensor, element_ends
from podium_crds.tensors import DType


@dataclass(frozen=True, slots=True)
class GatheredInputs:
    """Inputs of one batch as they are dispatched. `leases` belong to the worker's holder, until its reply or death."""

    refs: dict[str, TensorRef]
    payloads: list[bytes]
    leases: list[Lease]
    gathered_bytes: int
    """Bytes that were copied, 0 where every input went as it was."""
    gathers: int = 0
    """Tensors that were copied to."""

    def release(self, held: Collection[int] = ()) -> None:
        """Ends the worker's leases, but on slots whose generation is in `held`."""
        for lease in self.leases:
            if lease.slot.generation not in held:
                lease.revoke()


def gather(batch: Sequence[Waiting], arena: Arena, holder: Holder, inline_bytes: int) -> GatheredInputs:
    """One set of inputs for all requests of the batch. Raises ArenaExhausted where no message takes them either."""
    names = list(batch[0].inputs)
    parts = {name: [waiting.inputs[name] for waiting in batch] for name in names}
    if len(batch) == 1 and all(tensors[0].lease is not None for tensors in parts.values()) and names:
        return _as_they_are(batch[0].inputs, arena, holder)
    total = sum(aligned(sum(tensor.nbytes for tensor in tensors)) for tensors in parts.values())
    if total <= inline_bytes:
        return _inline(parts)
    try:
        return _into_slot(parts, total, arena, holder)
    except ArenaExhausted:
        if total > MAX_INLINE_BYTES:
            raise
        return _inline(parts)


def _as_they_are(inputs: Mapping[str, Tensor], arena: Arena, holder: Holder) -> GatheredInputs:
    refs: dict[str, TensorRef] = {}
    leases: dict[Slot, Lease] = {}
    for name, tensor in inputs.items():
        sealed = arena.seal(tensor)
        assert sealed.lease is not None
        slot = sealed.lease.slot
        if slot not in leases:
            leases[slot] = arena.ledger.share(slot, holder)
        offset = arena.offset_in(slot, sealed.data)
        refs[name] = Descriptor(slot.offset, slot.generation, offset, sealed.nbytes, sealed.dtype, sealed.shape)
    return GatheredInputs(refs, [], list(leases.values()), 0)


def _inline(parts: Mapping[str, Sequence[Tensor]]) -> GatheredInputs:
    refs: dict[str, TensorRef] = {}
    payloads: list[bytes] = []
    for name, tensors in parts.items():
        refs[name] = Inline(len(payloads), tensors[0].dtype, _joined_shape(tensors))
        payloads.append(b"".join(tensor.data for tensor in tensors))
    return GatheredInputs(refs, payloads, [], sum(len(payload) for payload in payloads), len(payloads))


def _into_slot(parts: Mapping[str, Sequence[Tensor]], total: int, arena: Arena, holder: Holder) -> GatheredInputs:
    buffer = arena.allocate(total, holder)
    slot = buffer.lease.slot
    refs: dict[str, TensorRef] = {}
    offset = 0
    for name, tensors in parts.items():
        end = offset
        for tensor in tensors:
            buffer.data[end : end + tensor.nbytes] = tensor.data
            end += tensor.nbytes
        shape = _joined_shape(tensors)
        refs[name] = Descriptor(slot.offset, slot.generation, offset, end - offset, tensors[0].dtype, shape)
        offset += aligned(end - offset)
    arena.ledger.seal(slot)
    return GatheredInputs(refs, [], [buffer.lease], total, len(refs))


def _joined_shape(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    if len(tensors) == 1:
        return tensors[0].shape
    return (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])


@dataclass(frozen=True, slots=True)
class GrantedSlot:
    """A slot that a worker may write its outputs to. `lease` is held by the worker until its reply or death."""

    lease: Lease
    range: SlotRange


def read_outputs(
    refs: Mapping[str, TensorRef], payloads: Sequence[bytes], grant: GrantedSlot | None, arena: Arena
) -> dict[str, Tensor]:
    """Outputs of a whole batch, each reference checked as if the worker were hostile.

    Arena tensors borrow the grant's lease without owning it. Raises DescriptorError.
    """
    outputs: dict[str, Tensor] = {}
    for name, ref in refs.items():
        if isinstance(ref, Inline):
            if ref.frame >= len(payloads):
                raise DescriptorError(f"output {name!r} names payload {ref.frame} of {len(payloads)}")
            data = memoryview(payloads[ref.frame])
            check_layout_of(ref, data.nbytes)
            outputs[name] = Tensor(ref.dtype, ref.shape, data)
            continue
        check_granted(ref, grant.range if grant else None)
        assert grant is not None
        data = arena.read(grant.lease.slot, ref.offset, ref.nbytes)
        outputs[name] = Tensor(ref.dtype, ref.shape, data, grant.lease)
    return outputs


def split(outputs: Mapping[str, Tensor], rows: Sequence[int]) -> list[dict[str, Tensor]]:
    """Each request's share, in order, without copies and without leases yet (see `lease_out`).

    Raises ModelError where an output has not the batch's rows.
    """
    if len(rows) <= 1:
        return [dict(outputs)]
    shares: list[dict[str, Tensor]] = [{} for _ in rows]
    for name, tensor in outputs.items():
        if not tensor.shape or tensor.shape[0] != sum(rows):
            raise ModelError(f"output {name!r} has shape {list(tensor.shape)}, expected {sum(rows)} rows")
        for share, part in zip(shares, split_rows(tensor, rows), strict=True):
            share[name] = part
    return shares


def split_rows(tensor: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Consecutive row ranges of one tensor. Raises ModelError where BYTES elements do not fill their data."""
    bounds = _byte_bounds(tensor, rows)
    trailing = tensor.shape[1:]
    return [
        Tensor(tensor.dtype, (count, *trailing), tensor.data[start:end], tensor.lease)
        for count, (start, end) in zip(rows, pairwise(bounds), strict=True)
    ]


def _byte_bounds(tensor: Tensor, rows: Sequence[int]) -> list[int]:
    per_row = prod(tensor.shape[1:])
    bounds = [0]
    if tensor.dtype is not DType.BYTES:
        step = per_row * NUMPY_DTYPES[tensor.dtype].itemsize
        for count in rows:
            bounds.append(bounds[-1] + count * step)
        return bounds
    try:
        ends = [0, *element_ends(tensor.data, tensor.shape[0] * per_row)]
    except InvalidInput as error:
        raise ModelError(str(error)) from error
    position = 0
    for count in rows:
        position += count * per_row
        bounds.append(ends[position])
    return bounds


def lease_out(share: Mapping[str, Tensor], arena: Arena, holder: Holder) -> dict[str, Tensor]:
    """The same tensors, each with a lease of its own that the caller must release."""
    leased: dict[str, Tensor] = {}
    for name, tensor in share.items():
        lease = arena.ledger.share(tensor.lease.slot, holder) if tensor.lease is not None else None
        leased[name] = Tensor(tensor.dtype, tensor.shape, tensor.data, lease)
    return leased
