"""Whether the `when` of a step holds for a request. Pure."""

from podium.graph.errors import BranchConditionError
from podium.ipc.tensor import Tensor
from podium_crds.assignment import Comparison
from podium_crds.tensors import DType

MAX_CONDITION_BYTES = 64 * 1024
BYTES_PREFIX = 4
"""An element of a BYTES tensor is preceded by its length, as four little-endian bytes."""


def holds(step: str, condition: Comparison, tensor: Tensor) -> bool:
    """Whether the tensor's elements compare as the condition asks; elements that differ are an error of the request."""
    if tensor.nbytes > MAX_CONDITION_BYTES:
        raise BranchConditionError(step, f"{condition.source} has {tensor.nbytes} bytes, expected one value")
    elements = set(_elements(tensor))
    if len(elements) != 1:
        raise BranchConditionError(
            step, f"{condition.source} holds {len(elements)} different values, expected one for the whole request"
        )
    if condition.not_equals is not None:
        return elements != {condition.not_equals}
    return elements == {condition.equals}


def _elements(tensor: Tensor) -> list[str | int | bool | float]:
    if tensor.dtype != DType.BYTES:
        values: list[str | int | bool | float] = tensor.array().reshape(-1).tolist()
        return values
    raw, texts, position = bytes(tensor.data), [], 0
    while position < len(raw):
        start = position + BYTES_PREFIX
        position = start + int.from_bytes(raw[position:start], "little")
        texts.append(raw[start:position].decode("utf-8", "replace"))
    return list(texts)
