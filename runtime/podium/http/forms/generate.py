"""Triton's generate extension: `{"<input>": <value>, "parameters": {…}}`. Input tensors at the top level."""

from typing import Any

from podium.errors import InvalidInput
from podium.http.forms.document import Tensors, parse_object
from podium.http.forms.wishes import NamedRequest
from podium.serving.revisions.contract import Contract
from podium.serving.revisions.named_tensors import parse_tensors

FORM = '{"<input>": <value or list>, "parameters": {…}}'
NO_INPUTS = ("id", "parameters")


def parse_generate(raw: bytes, contract: Contract) -> tuple[Tensors, NamedRequest]:
    """Every key names an input, in `parameters` those that do; a value gets the dimensions that its shape asks for.

    Raises InvalidInput.
    """
    body = parse_object(raw, FORM)
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f'"parameters" must be an object; expected {FORM}')
    values = {name: value for name, value in body.items() if name not in NO_INPUTS}
    values |= {name: value for name, value in parameters.items() if name in contract.inputs}
    return parse_tensors({name: _deepened(name, value, contract) for name, value in values.items()}, contract), (
        NamedRequest()
    )


def _deepened(name: str, value: Any, contract: Contract) -> Any:
    spec = contract.inputs.get(name)
    if spec is None:
        known = ", ".join(contract.inputs) or "none: the resource declares no inputs; use :stream"
        raise InvalidInput(f"unknown input {name[:80]!r}; expected one of {known}")
    depth, inner = 0, value
    while isinstance(inner, list) and depth <= len(spec.shape):
        depth, inner = depth + 1, inner[0] if inner else None
    for _ in range(len(spec.shape) - depth):
        value = [value]
    return value
