"""Forms of bodies for models with one input: `:batch` (`{"data": […]}`) and `/v1/{model}/predict` (`{"input": …}`).

They exist for clients of Virtex and Forge; `:predict` says more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podium.errors import InvalidInput
from podium.http.forms.document import Served, Tensors, only_keys, parse_object
from podium.http.forms.sole import sole_input
from podium.http.transport.asgi import Answer, json_answer
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract
from podium.serving.revisions.named_tensors import parse_tensors, to_json

BATCH_FORM = '{"data": [<item>, …]}'
SINGLE_FORM = '{"input": <nested list>, "dtype": "FP32"}'


@dataclass(frozen=True, slots=True)
class SingleRequest:
    """What is to be done with the answer."""

    is_item: bool = False
    """The first dimension was added, and is taken off the answer."""


def parse_batch(raw: bytes, contract: Contract) -> tuple[Tensors, SingleRequest]:
    """The items of a `:batch`, stacked. Raises InvalidInput."""
    body = parse_object(raw, BATCH_FORM)
    only_keys(body, {"data"}, BATCH_FORM)
    items = body.get("data")
    if not isinstance(items, list) or not items:
        raise InvalidInput(f'"data" must be a list of items; expected {BATCH_FORM}')
    return parse_tensors({sole_input(contract)[0]: items}, contract), SingleRequest()


def parse_single(raw: bytes, contract: Contract) -> tuple[Tensors, SingleRequest]:
    """One item, or a batch of them, for the one input. Raises InvalidInput."""
    body = parse_object(raw, SINGLE_FORM)
    only_keys(body, {"input", "dtype"}, SINGLE_FORM)
    name, spec = sole_input(contract)
    value, is_item = body.get("input"), False
    if _dimensions(value) == len(spec.shape) - 1:
        value, is_item = [value], True
    tensor: dict[str, Any] = {"data": value}
    if "dtype" in body:
        tensor["dtype"] = body["dtype"]
    return parse_tensors({name: tensor}, contract), SingleRequest(is_item)


def batch_answer(_served: Served, _request: SingleRequest, outputs: Mapping[str, Tensor]) -> Answer:
    """`{"data": […]}`, an item for each row: the row of the one output, or an object of rows by output."""
    rows = {name: _rows(tensor) for name, tensor in outputs.items()}
    if len(rows) == 1:
        return json_answer({"data": next(iter(rows.values()))})
    if len({len(column) for column in rows.values()}) > 1:
        raise InvalidInput("the outputs differ in their number of rows; use :predict")
    return json_answer({"data": [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]})


def single_answer(served: Served, request: SingleRequest, outputs: Mapping[str, Tensor]) -> Answer:
    """`{"model", "output", "request_id"}`; output is an object of them by name where there are several."""
    values: dict[str, Any] = {name: _rows(tensor) for name, tensor in outputs.items()}
    if request.is_item:
        values = {name: rows[0] if rows else None for name, rows in values.items()}
    output = next(iter(values.values())) if len(values) == 1 else values
    return json_answer({"model": served.name, "output": output, "request_id": served.request_id})


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
