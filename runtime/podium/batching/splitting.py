"""Cuts the outputs of a batch into row ranges, without copies."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

from podium.errors import InvalidInput, ModelError
from podium.ipc.tensor import NUMPY_DTYPES, Tensor, element_ends
from podium_crds.tensors import DType


def split(outputs: Mapping[str, Tensor], rows: Sequence[int]) -> list[dict[str, Tensor]]:
    """Each request's share, in order, without copies and without leases yet (see `lease_out`).

    Raises ModelError where an output has not the batch's rows.
    """
    if len(rows) == 1:
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
