"""Which requests can share a tensor batch, and how their inputs are joined: as they are, padded, or end to end.

- as they are: all dimensions but the first agree;
- padded: the declared dimensions are filled up to the longest of the batch, and lengths that share a batch differ by at
  most 20 %, since they are of one class of a geometric series;
- ragged: rows of different lengths follow each other without padding; an extra input says where each begins.

PURE. Outputs are cut back in podium.batching.splitting.
"""

from collections.abc import Mapping
from math import log, prod
from typing import NamedTuple

from podium.errors import InvalidInput
from podium.ipc.tensor import Tensor
from podium_crds.assignment import Batching

RATIO = 1.25
"""Between the bounds of two length classes: padding is at most a fifth of what is computed."""
KNOWN = 256
"""Layouts of lone inputs whose place is remembered; an open dimension has no end of them."""

Bucket = tuple[tuple[str, str, tuple[int, ...]], ...]
"""(name, dtype, other dimensions) of each input, by name; lengths that are padded are given as their class. Empty: the
request shares a batch with nobody."""


class Placement(NamedTuple):
    """Where a request belongs."""

    rows: int
    bucket: Bucket
    elements: int
    """Elements of one row, all inputs together."""


class Layouts:
    """Places the requests of one model as its batching settings say."""

    def __init__(self, batching: Batching) -> None:
        self._variable = {entry.input: frozenset(entry.dimensions) for entry in batching.padding}
        """Input → dimensions whose length is free within a batch."""
        self._ragged = frozenset(batching.ragged.inputs) if batching.ragged else frozenset()
        self._counts_elements = batching.max_batch_elements is not None or bool(batching.padding)
        self._known: dict[tuple[str, str, tuple[int, ...]], Placement] = {}
        """Name, dtype and shape of a lone input → where it belongs."""

    def place(self, inputs: Mapping[str, Tensor]) -> Placement:
        """Rows and bucket of a request. Raises InvalidInput where an input has too few dimensions."""
        if len(inputs) != 1:
            return self._placed(inputs)
        ((name, tensor),) = inputs.items()
        key = (name, tensor.dtype, tensor.shape)
        placement = self._known.get(key)
        if placement is None:
            placement = self._placed(inputs)
            if len(self._known) < KNOWN:
                self._known[key] = placement
        return placement

    def _placed(self, inputs: Mapping[str, Tensor]) -> Placement:
        rows, bucket = layout(inputs)
        if bucket and self._variable:
            bucket = tuple(self._classed(entry) for entry in bucket)
        elif bucket and self._ragged:
            bucket = tuple(self._open(entry) for entry in bucket)
        return Placement(rows, bucket, _elements(inputs) if self._counts_elements else 0)

    def _classed(self, entry: tuple[str, str, tuple[int, ...]]) -> tuple[str, str, tuple[int, ...]]:
        name, dtype, trailing = entry
        free = self._variable.get(name)
        if free is None:
            return entry
        if max(free) > len(trailing):
            raise InvalidInput(
                f"input {name!r} has {len(trailing) + 1} dimensions; its dimension {max(free)} is padded"
            )
        return (
            name,
            dtype,
            tuple(length_class(length) if axis in free else length for axis, length in enumerate(trailing, 1)),
        )

    def _open(self, entry: tuple[str, str, tuple[int, ...]]) -> tuple[str, str, tuple[int, ...]]:
        name, dtype, trailing = entry
        if name not in self._ragged:
            return entry
        if not trailing:
            raise InvalidInput(f"input {name!r} has one dimension; expected [rows, length, …], as its rows are ragged")
        return name, dtype, (0, *trailing[1:])


def layout(inputs: Mapping[str, Tensor]) -> tuple[int, Bucket]:
    """Rows of a request, and its bucket. Inputs without a common first dimension make a request of one, for itself."""
    if len(inputs) == 1:
        ((name, tensor),) = inputs.items()
        shape = tensor.shape
        if not shape:
            return 1, ()
        return shape[0], ((name, tensor.dtype, shape[1:]),) if shape[0] else ()
    firsts = {tensor.shape[0] if tensor.shape else None for tensor in inputs.values()}
    if len(firsts) != 1 or None in firsts:
        return 1, ()
    rows = firsts.pop()
    assert rows is not None
    if rows == 0:
        return 0, ()
    return rows, tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in sorted(inputs.items()))


def length_class(length: int) -> int:
    """The class of a length: any two lengths of one class are at most RATIO apart. 0 is a class of its own."""
    if length < 4:
        return length
    # Four bounds 4, 5, 6.25, …: the class of a length is the last bound that is not above it.
    return 4 + int(log(length / 4, RATIO) + 1e-9)


def _elements(inputs: Mapping[str, Tensor]) -> int:
    return sum(prod(tensor.shape[1:]) for tensor in inputs.values())
