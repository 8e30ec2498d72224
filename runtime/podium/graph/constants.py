"""Constants of a graph as tensors: one row's value, repeated for as many rows as a request has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from podium.ipc.tensor import NUMPY_DTYPES, Tensor
from podium_crds.assignment import StepInput
from podium_crds.constants import implied_dtype
from podium_crds.tensors import DType


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """The value of one row, of the type that the member's input has."""

    row: NDArray[Any]

    @classmethod
    def of(cls, edge: StepInput, declared: Mapping[str, DType]) -> Self:
        """From a checked edge; `declared` types by input name."""
        dtype = declared.get(edge.name) or implied_dtype(edge.value)
        assert dtype is not None, "the check of the graph refuses numbers of unknown type"
        return cls(np.array(edge.value, dtype=object if dtype is DType.BYTES else NUMPY_DTYPES[dtype]))

    def rows(self, count: int) -> Tensor:
        """A heap tensor of `count` equal rows."""
        return Tensor.from_array(np.broadcast_to(self.row, (count, *self.row.shape)))
