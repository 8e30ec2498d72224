"""`:predict` and `:run`: named tensors, with messages that name what was expected."""

from collections.abc import Mapping
from math import prod
from typing import Any

from podium.errors import InvalidInput
from podium.http.forms.contents import CONTENT_TYPE, Content, content_tensors, content_type_of
from podium.http.forms.document import Served, Tensors, only_keys, parse_object
from podium.http.forms.wishes import NamedRequest, chosen, wishes
from podium.http.transport.asgi import Answer, json_answer
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract
from podium.serving.revisions.named_tensors import outputs_to_json, parse_shape, parse_tensors

FORM = (
    '{"inputs": {"<name>": {"dtype": …, "shape": …, "data": …}}, "outputs": ["<name>"], "timeout_ms": …, "priority": …}'
)


def parse_predict(raw: bytes, contract: Contract) -> tuple[Tensors, NamedRequest]:
    """The request in a JSON body. Raises InvalidInput."""
    body = parse_object(raw, FORM)
    request = wishes(body, contract, FORM)
    return parse_inputs(body.get("inputs"), contract), request


def parse_inputs(given: object, contract: Contract) -> Tensors:
    """Tensors, and files that stand for some. Raises InvalidInput."""
    files = {name: item for name, item in given.items() if is_file(item)} if isinstance(given, dict) else {}
    if not files:
        return parse_tensors(given, contract)
    assert isinstance(given, dict), "it has files"
    contract.check_names(given)
    rest = {name: item for name, item in given.items() if name not in files}
    tensors = parse_tensors(rest, contract.of_inputs(rest)) if rest else {}
    tensors |= content_tensors({name: content_of(name, item) for name, item in files.items()}, contract)
    contract.check(tensors)
    return tensors


def is_file(item: object) -> bool:
    """Whether a tensor of the document is given as the content of files."""
    return isinstance(item, dict) and item.get(CONTENT_TYPE) is not None


def content_of(name: str, item: Mapping[str, Any]) -> Content:
    """The files of a tensor of the document: `base64` is one, `data` one or a list. Raises InvalidInput."""
    where = f"input {name[:80]!r}"
    content_type = content_type_of(item[CONTENT_TYPE], where)
    only_keys(item, {CONTENT_TYPE, "shape", "data", "base64"}, f"{where} with {CONTENT_TYPE}, and data or base64")
    if content_type is None or ("data" in item) == ("base64" in item):
        raise InvalidInput(f"{where}: expected exactly one of data and base64 beside the {CONTENT_TYPE} of a file")
    given = item["data"] if "data" in item else item["base64"]
    elements = given if isinstance(given, list) else [given]
    if not all(isinstance(element, str | bytes) for element in elements):
        raise InvalidInput(f"{where}: expected files as base64, in msgpack as bin, alone or in a list")
    shape = item.get("shape")
    if shape is None:
        return Content(content_type, elements)
    found = parse_shape(name, shape)
    if prod(found) != len(elements):
        raise InvalidInput(f"{where}: {len(elements)} files; shape {list(found)} takes {prod(found)}")
    return Content(content_type, elements, found)


def predict_answer(served: Served, request: NamedRequest, outputs: Mapping[str, Tensor]) -> Answer:
    """The response: named tensors in the same form. Borrows the outputs."""
    return json_answer(
        {
            "model": served.name,
            "version": served.version,
            "revision": served.revision,
            "outputs": outputs_to_json(chosen(outputs, request.outputs)),
        }
    )
