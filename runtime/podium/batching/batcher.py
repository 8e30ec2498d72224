"""Forms one tensor batch of several requests and splits its outputs back: one gather in, one store out.

Inputs are concatenated along dimension 0 straight into one arena slot. What lies together there already goes as it is:
the tensor of a single request, and the rows of several that one batch of the step before has left side by side.
Outputs stay in the slot the worker wrote, or in that of the input which the model passed on; each request gets row
ranges of it with leases of their own. Nothing fails for want of arena room: what finds none travels in the message.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from podium.batching.joining import Joining, Part, padding_of
from podium.batching.queue import Waiting
from podium.errors import ArenaExhausted, DescriptorError
from podium.ipc.arena import Arena
from podium.ipc.descriptor import (
    Descriptor,
    Inline,
    SlotRange,
    TensorRef,
    aligned,
    check_granted,
    check_layout_of,
    is_within,
)
from podium.ipc.lease import Holder, Lease, Slot
from podium.ipc.protocol import MAX_INLINE_BYTES
from podium.ipc.tensor import Tensor


@dataclass(slots=True)
class GatheredInputs:
    """Inputs of one batch as they are dispatched. `leases` belong to the worker's holder, until its reply or death."""

    refs: dict[str, TensorRef]
    payloads: list[bytes]
    leases: list[Lease]
    gathered_bytes: int
    """Bytes that were copied, 0 where every input went as it was."""
    gathers: int = 0
    """Tensors that were copied to."""
    padding: tuple[int, int] = (0, 0)
    """Elements of padded inputs, as requests brought them and as the model gets them."""

    def lease_of(self, ref: Descriptor) -> Lease | None:
        """The worker's lease on the input that `ref` is a part of; None where it is of none. Raises DescriptorError."""
        for given in self.refs.values():
            if is_within(ref, given):
                check_layout_of(ref, ref.nbytes)
                return next(lease for lease in self.leases if lease.slot.generation == ref.generation)
        return None

    def release(self, held: Collection[int] = ()) -> None:
        """Ends the worker's leases, but on slots whose generation is in `held`."""
        for lease in self.leases:
            if lease.slot.generation not in held:
                lease.revoke()


def gather(
    batch: Sequence[Waiting], joining: Joining, arena: Arena, holder: Holder, inline_bytes: int
) -> GatheredInputs:
    """One set of inputs for all requests of the batch. Raises ArenaExhausted where no message takes them either."""
    inputs = batch[0].inputs
    in_arena = inputs and all(tensor.lease is not None for tensor in inputs.values())
    if len(batch) == 1 and in_arena and not joining.is_ragged(batch):
        return _as_they_are(inputs, arena, holder)
    parts = joining.parts(batch)
    together = {name: whole for name, part in parts.items() if (whole := _lying_together(part, arena)) is not None}
    if not together:
        return _copied(parts, arena, holder, inline_bytes)
    copied = _copied({name: part for name, part in parts.items() if name not in together}, arena, holder, inline_bytes)
    as_they_are = _as_they_are(together, arena, holder)
    copied.refs = {name: (copied if name in copied.refs else as_they_are).refs[name] for name in parts}
    copied.leases += as_they_are.leases
    copied.padding = padding_of(parts)
    return copied


def _copied(parts: Mapping[str, Part], arena: Arena, holder: Holder, inline_bytes: int) -> GatheredInputs:
    total = sum([aligned(part.nbytes) for part in parts.values()])
    if total <= inline_bytes:
        return _inline(parts)
    try:
        return _into_slot(parts, total, arena, holder)
    except ArenaExhausted:
        if total > MAX_INLINE_BYTES:
            raise
        return _inline(parts)


def _lying_together(part: Part, arena: Arena) -> Tensor | None:
    """The joined tensor where it need not be joined: its pieces follow each other in one slot."""
    first = part.tensors[0]
    if first.lease is None:
        return None
    slot = first.lease.slot
    start = end = arena.offset_in(slot, first.data)
    for tensor in part.tensors:
        if tensor.lease is None or tensor.lease.slot is not slot or not tensor.nbytes:
            return None
        if arena.offset_in(slot, tensor.data) != end:
            return None
        end += tensor.nbytes
    if end - start != part.nbytes:
        return None  # shorter rows are still to be padded
    arena.seal(first)
    return Tensor(part.dtype, part.shape, arena.read(slot, start, end - start), first.lease)


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


def _inline(parts: Mapping[str, Part]) -> GatheredInputs:
    refs: dict[str, TensorRef] = {}
    payloads: list[bytes] = []
    for name, part in parts.items():
        refs[name] = Inline(len(payloads), part.dtype, part.shape)
        payloads.append(part.joined())
    copied = sum([len(payload) for payload in payloads])
    return GatheredInputs(refs, payloads, [], copied, len(payloads), padding_of(parts))


def _into_slot(parts: Mapping[str, Part], total: int, arena: Arena, holder: Holder) -> GatheredInputs:
    buffer = arena.allocate(total, holder)
    slot = buffer.lease.slot
    refs: dict[str, TensorRef] = {}
    offset = 0
    for name, part in parts.items():
        nbytes = part.nbytes
        part.write_to(buffer.data[offset : offset + nbytes])
        refs[name] = Descriptor(slot.offset, slot.generation, offset, nbytes, part.dtype, part.shape)
        offset += aligned(nbytes)
    arena.ledger.seal(slot)
    return GatheredInputs(refs, [], [buffer.lease], total, len(refs), padding_of(parts))


@dataclass(frozen=True, slots=True)
class GrantedSlot:
    """A slot that a worker may write its outputs to. `lease` is held by the worker until its reply or death."""

    lease: Lease
    range: SlotRange


def read_outputs(
    refs: Mapping[str, TensorRef],
    payloads: Sequence[bytes],
    inputs: GatheredInputs,
    grant: GrantedSlot | None,
    arena: Arena,
) -> dict[str, Tensor]:
    """Outputs of a whole batch, each reference checked as if the worker were hostile.

    Arena tensors borrow the worker's lease, on the slot of an input or the granted one, without owning it. Raises
    DescriptorError.
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
        lease = inputs.lease_of(ref)
        if lease is None:
            check_granted(ref, grant.range if grant else None)
            assert grant is not None
            lease = grant.lease
        outputs[name] = Tensor(ref.dtype, ref.shape, arena.read(lease.slot, ref.offset, ref.nbytes), lease)
    return outputs


def lease_out(share: Mapping[str, Tensor], arena: Arena, holder: Holder) -> dict[str, Tensor]:
    """The same tensors, each with a lease of its own that the caller must release."""
    leased: dict[str, Tensor] = {}
    for name, tensor in share.items():
        if tensor.lease is None:
            leased[name] = tensor
            continue
        lease = arena.ledger.share(tensor.lease.slot, holder)
        leased[name] = Tensor(tensor.dtype, tensor.shape, tensor.data, lease)
    return leased
