"""Batches that nobody has sent, of declared shapes: what a member warms up on that names no requests. PURE."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from podium.batching.lengths import InUse, Lengths
from podium.ipc.tensor import NUMPY_DTYPES, Tensor
from podium.serving.revisions.named_tensors import text_tensor
from podium_crds.assignment import Member
from podium_crds.tensors import DType, TensorSpec

TEXT = b"warm-up"
MAX_BYTES = 64 << 20
"""A batch above this is left out: it would fill the arena for a guess."""
SHORTEST: Lengths = {}
"""Every free size is 1."""


@dataclass(frozen=True, slots=True)
class Synthesized:
    """One batch. `has_lengths`: as long as batches in use, else as short as the declared shapes allow."""

    rows: int
    inputs: dict[str, Tensor]
    has_lengths: bool


def batches(member: Member, in_use: InUse) -> Iterator[Synthesized]:
    """First the shortest, of 1, of the largest size and of those in use; then, for each of the lengths in use, of 1 and
    of the most rows that would be batched at it. What is too large to be made is left out."""
    largest = member.batching.max_batch_size
    for rows in sorted({1, largest, *(rows for rows in in_use.rows if 0 < rows < largest)}):
        yield from _batch(member, rows, SHORTEST)
    for lengths in in_use.lengths:
        if _fits(member, lengths):
            for rows in sorted({1, _most_rows(member, lengths)}):
                yield from _batch(member, rows, lengths)


def _batch(member: Member, rows: int, lengths: Lengths) -> Iterator[Synthesized]:
    shapes = {spec.name: _shape(spec, rows, lengths) for spec in _required(member)}
    if sum(_nbytes(spec, shapes[spec.name]) for spec in _required(member)) <= MAX_BYTES:
        inputs = {spec.name: _filled(spec, shapes[spec.name]) for spec in _required(member)}
        yield Synthesized(rows, inputs, bool(lengths))


def _required(member: Member) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in member.inputs if not spec.optional)


def _fits(member: Member, lengths: Lengths) -> bool:
    """Whether the lengths, which another version had, are of inputs and dimensions that are free here."""
    specs = {spec.name: spec for spec in member.inputs}
    return bool(lengths) and all(
        name in specs and axis < len(specs[name].shape) and specs[name].shape[axis] == -1
        for name, axes in lengths.items()
        for axis in axes
    )


def _most_rows(member: Member, lengths: Lengths) -> int:
    batching = member.batching
    if batching.max_batch_elements is None:
        return batching.max_batch_size
    elements = sum(prod(_shape(spec, 1, lengths)[1:]) for spec in _required(member))
    return max(1, min(batching.max_batch_size, batching.max_batch_elements // max(1, elements)))


def _shape(spec: TensorSpec, rows: int, lengths: Lengths) -> tuple[int, ...]:
    """The batch is `rows` where it is free; other free sizes are as given, else 1."""
    free = {0: rows, **lengths.get(spec.name, {})}
    return tuple(free.get(axis, 1) if size == -1 else size for axis, size in enumerate(spec.shape))


def _nbytes(spec: TensorSpec, shape: tuple[int, ...]) -> int:
    return prod(shape) * (4 + len(TEXT) if spec.dtype is DType.BYTES else NUMPY_DTYPES[spec.dtype].itemsize)


def _filled(spec: TensorSpec, shape: tuple[int, ...]) -> Tensor:
    """Zeros, or a short text."""
    if spec.dtype is DType.BYTES:
        return text_tensor([TEXT] * prod(shape), shape)
    return Tensor.from_array(np.zeros(shape, NUMPY_DTYPES[spec.dtype]))
