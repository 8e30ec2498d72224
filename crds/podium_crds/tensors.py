"""Tensor contracts: dtypes by their Open Inference Protocol names, shapes, compatibility of an edge."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from podium_crds.base import Form, Strict

MAX_DIMS = 8

Dim = Annotated[int, Field(ge=-1, le=2**31 - 1)]
"""Size of one dimension; -1 is any size. The first dimension is the batch."""

TensorName = Annotated[
    str,
    Form(r"^[A-Za-z_][A-Za-z0-9_.-]*$", "letters, digits, '_', '.' and '-', beginning with a letter or '_'"),
    Field(max_length=63),
]


class DType(StrEnum):
    """Element types, named as in the Open Inference Protocol v2. BYTES holds variable-length strings."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class TensorSpec(Strict):
    """One named input or output of a model."""

    name: TensorName
    """Name of the tensor in requests and answers."""
    dtype: DType
    """Type of its elements, as in the Open Inference Protocol."""
    shape: Annotated[tuple[Dim, ...], Field(min_length=1, max_length=MAX_DIMS)]
    """Dimensions with the batch first; -1 where any size is accepted. BYTES counts elements, not bytes."""
    optional: bool = False
    """True where a request may leave this input out."""


def mismatch(produced: TensorSpec, consumed: TensorSpec) -> str | None:
    """Why `produced` cannot feed `consumed`, or None where it can. -1 agrees with any size."""
    if produced.dtype != consumed.dtype:
        return f"dtype {produced.dtype} does not match {consumed.dtype}"
    if len(produced.shape) != len(consumed.shape):
        return f"shape {list(produced.shape)} has {len(produced.shape)} dimensions, expected {len(consumed.shape)}"
    for axis, (left, right) in enumerate(zip(produced.shape, consumed.shape, strict=True)):
        if -1 not in (left, right) and left != right:
            return f"dimension {axis} is {left}, expected {right}"
    return None
