"""How many bytes a batch's outputs will take: from the declared shapes, else from what the model returned before."""

from dataclasses import dataclass
from math import prod

from podium.ipc.descriptor import ALIGNMENT, aligned
from podium.ipc.tensor import NUMPY_DTYPES
from podium_crds.tensors import DType, TensorSpec

HEADROOM = 1.25
"""Over the largest recent bytes per row: cheaper than a round trip for a slightly longer answer."""
MAX_OVER_MEAN = 4.0
"""A grant is at most this many times what is usual: a rare huge answer asks for its slot, and the others, whose slots
live as long as they are being sent, do not each hold as much."""
MEAN_WEIGHT = 0.1
"""Of the newest batch in the mean; of the first ones as much as of each before them."""
SURE_AFTER = 4
"""Batches that stored something, before what they took refuses others: the first may have been a rare one."""
DECAY = 0.98
"""Per batch, so that one huge answer is forgotten after about a hundred others."""
PASSES_ON = 8
"""Batches in a row that stored nothing: the model passes its inputs on, and is granted a slot when it asks for one."""


@dataclass(slots=True)
class OutputSize:
    """Estimates the outputs of one model in bytes."""

    declared: int | None
    """Bytes per row of all outputs together; None where a shape is open."""
    tensors: int
    _per_row: float = 0.0
    """The largest of late."""
    _in_a_row: int = 0
    """Batches that stored nothing, since the last one that did."""
    _mean_per_row: float = 0.0
    """Geometric, so that one huge answer does not have many small requests refused."""
    _stored: int = 0
    """Batches that stored something."""

    @classmethod
    def of(cls, outputs: tuple[TensorSpec, ...]) -> "OutputSize":
        """From a member's contract."""
        sizes = [_row_bytes(spec) for spec in outputs]
        known = [size for size in sizes if size is not None]
        closed = bool(sizes) and len(known) == len(sizes)
        return cls(sum(known) if closed else None, max(1, len(sizes)))

    def estimate(self, rows: int) -> int:
        """Bytes to grant for a batch of `rows`; 0 where nothing is known yet, or nothing is usually stored."""
        if self._in_a_row >= PASSES_ON:
            return 0
        padding = self.tensors * ALIGNMENT
        if self.declared is not None:
            return self.declared * rows + padding
        per_row = min(self._per_row * HEADROOM, self._mean_per_row * MAX_OVER_MEAN)
        return aligned(round(per_row * rows)) + padding if per_row else 0

    def expected(self, rows: int) -> int:
        """Bytes that `rows` take on average, for admission: the largest would refuse too many where shapes vary."""
        if self._in_a_row >= PASSES_ON:
            return 0
        if self.declared is not None:
            return self.declared * rows
        return round(self._mean_per_row) * rows if self._stored >= SURE_AFTER else 0

    def observe(self, rows: int, nbytes: int, tensors: int) -> None:
        """Those outputs of a batch that were no views of its inputs took `nbytes`."""
        self._in_a_row = 0 if nbytes else self._in_a_row + 1
        self.tensors = max(self.tensors, tensors)
        per_row = nbytes / max(1, rows)
        self._per_row = max(per_row, self._per_row * DECAY)
        if per_row:
            self._stored += 1
            before = self._mean_per_row or per_row
            self._mean_per_row = before * (per_row / before) ** max(MEAN_WEIGHT, 1 / self._stored)


def _row_bytes(spec: TensorSpec) -> int | None:
    trailing = spec.shape[1:]
    if spec.dtype is DType.BYTES or -1 in trailing:
        return None
    return prod(trailing) * NUMPY_DTYPES[spec.dtype].itemsize
