"""Constants of a pipeline: what may be written, and whether it fits a declared input. Pure."""

from typing import Any

from pydantic_core import PydanticCustomError

from podium_crds.base import json_bytes
from podium_crds.tensors import MAX_DIMS, DType, TensorSpec

MAX_CONSTANT_BYTES = 4096
"""As JSON. What is larger belongs into the artifact of a model."""

_RANGES = {
    DType[f"{sign}INT{bits}"]: (0 if sign else -(2 ** (bits - 1)), 2 ** (bits - (not sign)) - 1)
    for sign in ("", "U")
    for bits in (8, 16, 32, 64)
}


def checked_constant(value: object) -> Any:
    """The value itself: a string, a finite number, a boolean, or a rectangle of them of one kind."""
    if json_bytes_or_none(value) is None or shape_of(value) is None:
        raise PydanticCustomError(
            "constant",
            "expected a string, a finite number, true or false, or lists of equal length of one of these, of at most "
            "{limit} bytes as JSON",
            {"limit": MAX_CONSTANT_BYTES},
        )
    return value


def json_bytes_or_none(value: object) -> int | None:
    """Size as JSON; None for what JSON cannot say, or what is too large for a constant."""
    try:
        size = json_bytes(value)
    except (TypeError, ValueError, RecursionError):
        return None
    return size if size <= MAX_CONSTANT_BYTES else None


def shape_of(value: object) -> tuple[int, ...] | None:
    """Shape of one row; None where lists are ragged, empty, too deep, or mix kinds."""
    shape: list[int] = []
    level: list[object] = [value]
    while isinstance(level[0], list | tuple):
        size = len(level[0])
        if not size or len(shape) == MAX_DIMS - 1:
            return None
        if not all(isinstance(item, list | tuple) and len(item) == size for item in level):
            return None
        shape.append(size)
        level = [element for item in level if isinstance(item, list | tuple) for element in item]
    return (
        tuple(shape) if len({_kind(item) for item in level} - {None}) == 1 and None not in map(_kind, level) else None
    )


def constant_mismatch(value: object, spec: TensorSpec) -> str | None:
    """Why the constant cannot feed an input so declared, or None where it can."""
    shape = shape_of(value)
    assert shape is not None, "checked where it was read"
    wanted = spec.shape[1:]
    if len(shape) != len(wanted) or any(size not in (-1, own) for size, own in zip(wanted, shape, strict=True)):
        return f"one row of it has shape {list(wanted)}, the constant has {list(shape)}"
    low, high = _RANGES.get(spec.dtype, (None, None))
    for item in _leaves(value):
        kind = _kind(item)
        expected = {DType.BOOL: "boolean", DType.BYTES: "string"}.get(spec.dtype, "number")
        if kind != expected or (low is not None and isinstance(item, float) and not item.is_integer()):
            return f"dtype {spec.dtype} does not take {item!r}"
        if low is not None and high is not None and isinstance(item, int | float) and not low <= item <= high:
            return f"{item} is out of the range of {spec.dtype}"
    return None


def implied_dtype(value: object) -> DType | None:
    """The type of a constant whose input is not declared; None for numbers, which may be of any width.

    Not even integers imply a type: an API server returns 1.0 as 1.
    """
    first = _leaves(value)[0]
    return DType.BOOL if isinstance(first, bool) else DType.BYTES if isinstance(first, str) else None


def _leaves(value: object) -> list[object]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list | tuple) else [value]


def _kind(item: object) -> str | None:
    match item:
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case _:
            return None
