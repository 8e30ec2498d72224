"""Requests made from declared shapes, and requests cut and joined by rows. Pure; the same every time."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from podium.ipc.tensor import NUMPY_DTYPES, Tensor
from podium_crds.tensors import DType, TensorSpec

SEED = 7
FREE_SIZE = 1
"""Size of a free dimension that is not the batch."""


def synthesized(specs: Sequence[TensorSpec], rows: int) -> dict[str, Tensor]:
    """Inputs of the declared types: small numbers that differ from row to row, since equal rows would hide mix-ups."""
    random = np.random.default_rng(SEED)
    return {spec.name: _filled(spec, rows, random) for spec in specs if not spec.optional}


def row_count(inputs: Mapping[str, Tensor]) -> int:
    """Rows of the request; 1 where an input has no dimension."""
    return min((tensor.shape[0] if tensor.shape else 1 for tensor in inputs.values()), default=1)


def rows_of(inputs: Mapping[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    """The request with these rows alone."""
    return {name: Tensor.from_array(tensor.array()[start:end]) for name, tensor in inputs.items()}


def joined(inputs: Mapping[str, Tensor], rows: int) -> dict[str, Tensor] | None:
    """The request repeated to `rows` rows; None where its inputs have no rows in common, or it is as long already."""
    lengths = {tensor.shape[0] if tensor.shape else None for tensor in inputs.values()}
    have = next(iter(lengths)) if len(lengths) == 1 else None
    if not have or have >= rows:
        return None
    order = np.arange(rows) % have
    return {name: Tensor.from_array(tensor.array()[order]) for name, tensor in inputs.items()}


def _filled(spec: TensorSpec, rows: int, random: np.random.Generator) -> Tensor:
    batch = rows if spec.shape[0] == -1 else spec.shape[0]
    shape = (batch, *(FREE_SIZE if dim == -1 else dim for dim in spec.shape[1:]))
    if spec.dtype is DType.BYTES:
        texts = np.array([f"text {number}" for number in range(prod(shape))], dtype=object)
        return Tensor.from_array(texts.reshape(shape))
    dtype = NUMPY_DTYPES[spec.dtype]
    values = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
    return Tensor.from_array(values.astype(dtype))
