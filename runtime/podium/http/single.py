"""Forms of bodies for models with one input: `:batch` (`{"data": […]}`) and `/v1/{model}/predict` (`{"input": …}`).

They exist for clients of Virtex and Forge; `:predict` says more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podium.errors import InvalidInput
from podium.http.asgi import Answer, json_answer
from podium.http.oip import sole_input
from podium.http.predict import parse_object
from podium.ipc.tensor import Tensor
from podium.serving.live import LiveRevision
from podium.serving.named_tensors import parse_tensors, to_json

BATCH_FORM = '{"data": [<item>, …]}'
SINGLE_FORM = '{"input": <nested list>, "dtype": "FP32"}'


@dataclass(frozen=True, slots=True)
class SingleRequest:
    """Named tensors made of the one input."""

    inputs: dict[str, Tensor]
    is_item: bool = field(default=False)
    """The first dimension was added, and is taken off the answer."""


def parse_batch(raw: bytes, revision: LiveRevision) -> SingleRequest:
    """The items of a `:batch`, stacked. Raises InvalidInput."""
    body = _only(parse_object(raw, BATCH_FORM), {"data"}, BATCH_FORM)
    items = body.get("data")
    if not isinstance(items, list) or not items:
        raise InvalidInput(f'"data" must be a list of items; expected {BATCH_FORM}')
    return SingleRequest(parse_tensors({sole_input(revision)[0]: items}, revision.contract))


def parse_single(raw: bytes, revision: LiveRevision) -> SingleRequest:
    """One item, or a batch of them, for the one input. Raises InvalidInput."""
    body = _only(parse_object(raw, SINGLE_FORM), {"input", "dtype"}, SINGLE_FORM)
    name, spec = sole_input(revision)
    value, is_item = body.get("input"), False
    if _dimensions(value) == len(spec.shape) - 1:
        value, is_item = [value], True
    tensor: dict[str, Any] = {"data": value}
    if "dtype" in body:
        tensor["dtype"] = body["dtype"]
    return SingleRequest(parse_tensors({name: tensor}, revision.contract), is_item)


def batch_answer(outputs: Mapping[str, Tensor]) -> Answer:
    """`{"data": […]}`, an item for each row: the row of the one output, or an object of rows by output."""
    rows = {name: _rows(tensor) for name, tensor in outputs.items()}
    if len(rows) == 1:
        return json_answer({"data": next(iter(rows.values()))})
    if len({len(column) for column in rows.values()}) > 1:
        raise InvalidInput("the outputs differ in their number of rows; use :predict")
    return json_answer({"data": [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]})


def single_answer(revision: LiveRevision, request: SingleRequest, outputs: Mapping[str, Tensor], more: Any) -> Answer:
    """`{"model", "output"}` and `more`; output is an object of them by name where there are several."""
    values: dict[str, Any] = {name: _rows(tensor) for name, tensor in outputs.items()}
    if request.is_item:
        values = {name: rows[0] if rows else None for name, rows in values.items()}
    output = next(iter(values.values())) if len(values) == 1 else values
    return json_answer({"model": revision.resource.name, "output": output, **more})


def _only(body: dict[str, Any], keys: set[str], form: str) -> dict[str, Any]:
    if unknown := sorted(body.keys() - keys):
        raise InvalidInput(f"unknown key {unknown[0][:80]!r}; expected {form}")
    return body


def _dimensions(value: object) -> int:
    count = 0
    while isinstance(value, list):
        count += 1
        value = value[0] if value else None
    return count


def _rows(tensor: Tensor) -> list[Any]:
    shown = to_json(tensor)
    data = shown.get("data")
    if data is None:
        raise InvalidInput("an output is bytes that are not text; use :predict, which gives them as base64")
    if isinstance(data, list):
        return data
    return list(data) if getattr(data, "ndim", 0) else [data]
