"""Open Inference Protocol v2: the JSON of a request, and the answer, JSON or binary."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import orjson

from podium.errors import InvalidInput
from podium.http.forms.contents import CONTENT_TYPE, Content, content_tensors, content_type_of
from podium.http.forms.document import Served, Tensors, checked_object, parse_json, priority_of
from podium.http.transport.asgi import BINARY, DUMP_OPTIONS, JSON, Answer
from podium.http.transport.limits import MAX_TIMEOUT_MS
from podium.ipc.tensor import NUMPY_DTYPES, Tensor
from podium.serving.revisions.contract import LAYOUTS_KEPT, Contract, Layout
from podium.serving.revisions.named_tensors import MAX_TENSORS, bytes_elements, parse_tensor
from podium.serving.revisions.packing import Packing
from podium_crds.tensors import DType

HEADER_LENGTH = b"inference-header-content-length"
_INT = frozenset((int,))
DTYPE_NAMES = {dtype: dtype.value for dtype in DType}
"""Plain strings: an enumeration looks its value up each time."""
FORM = '{"inputs": [{"name", "shape", "datatype", "data"}], "outputs": [{"name"}]}'
MAX_ID_CHARS = 256
REFUSED = {
    "sequence_id": "sequences are not supported in v1alpha1",
    "shared_memory_region": "shared memory of clients is not supported; send the tensor",
    "classification": "classification is not supported; take the tensor",
}


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that the request names."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a body asks for beside its tensors."""

    request_id: str | None
    outputs: tuple[WantedOutput, ...] | None
    """None: all of them."""
    binary_by_default: bool
    timeout_s: float | None
    priority: int = 0
    """From 1, the most urgent, to 9; 0: the model's own."""


def parse_infer(raw: bytes, contract: Contract) -> tuple[Tensors, InferRequest]:
    """The request in a body that is JSON alone. Raises InvalidInput."""
    value = parse_json(raw, FORM)
    known = _seen_before(value, contract, may_hold_booleans=b"true" in raw or b"false" in raw)
    if known is not None:
        return known, InferRequest(value.get("id"), None, False, None)
    document = checked_object(value, "JSON", FORM)
    tensors: Tensors = {}
    files: dict[str, Content] = {}
    for entry, name in entries_of(document):
        parameters = parameters_of(entry, f"input {name!r}")
        if "binary_data_size" in parameters:
            raise InvalidInput(f"input {name!r}: binary_data_size needs the header Inference-Header-Content-Length")
        if content_type := content_type_of(parameters.get(CONTENT_TYPE), f"input {name[:80]!r}"):
            files[name] = json_files(entry, name, content_type)
        else:
            tensors[name] = json_input(entry, name, contract)
    if files:
        contract.check_names([*tensors, *files])
        tensors |= content_tensors(files, contract)
    contract.check(tensors)
    request = infer_request(document, contract)
    _remember(document, tensors, contract)
    return tensors, request


def _seen_before(document: Any, contract: Contract, *, may_hold_booleans: bool) -> dict[str, Tensor] | None:
    """The tensors of a plain request, all of whose layouts have passed the checks before; None for every other one,
    right or wrong. The same answer at a third of the price."""
    if type(document) is not dict:
        return None
    inputs, given_id = document.get("inputs"), document.get("id", "")
    if type(inputs) is not list or len(inputs) != len(contract.inputs) or len(document) != 2 - ("id" not in document):
        return None
    if type(given_id) is not str or len(given_id) > MAX_ID_CHARS:
        return None
    tensors: dict[str, Tensor] = {}
    for entry in inputs:
        layout = _layout(entry)
        known = contract.layouts.get(layout) if layout is not None else None
        if known is None:
            return None
        packed = known.pack(entry["data"], may_hold_booleans=may_hold_booleans)
        if packed is None:
            return None
        tensors[entry["name"]] = Tensor(known.dtype, known.shape, memoryview(packed))
    return tensors if len(tensors) == len(inputs) else None


def _layout(entry: object) -> Layout | None:
    if type(entry) is not dict or len(entry) != 4:
        return None
    try:
        layout: Layout = (entry["name"], entry["datatype"], *entry["shape"])
        entry["data"]
    except (KeyError, TypeError):
        return None
    return (
        layout if type(layout[0]) is str and type(layout[1]) is str and _INT.issuperset(map(type, layout[2:])) else None
    )


def _remember(document: Mapping[str, Any], tensors: Mapping[str, Tensor], contract: Contract) -> None:
    for entry in document["inputs"]:
        layout = _layout(entry)
        if layout is not None and entry["name"] in contract.inputs and len(contract.layouts) < LAYOUTS_KEPT:
            tensor = tensors[entry["name"]]
            contract.layouts[layout] = Packing(tensor.dtype, tensor.shape)


def json_input(entry: Mapping[str, Any], name: str, contract: Contract) -> Tensor:
    """A tensor that stands in the JSON. Raises InvalidInput."""
    if "data" not in entry:
        raise InvalidInput(f"input {name!r}: data is missing")
    form = {"dtype": entry.get("datatype"), "shape": entry.get("shape"), "data": entry["data"]}
    return parse_tensor(name, form, contract.inputs.get(name))


def json_files(entry: Mapping[str, Any], name: str, content_type: str) -> Content:
    """Files that stand in the JSON, as base64 or as text. Raises InvalidInput."""
    return content_of_tensor(name, content_type, json_input(entry, name, Contract({}, {})), is_text=True)


def content_of_tensor(name: str, content_type: str, tensor: Tensor, *, is_text: bool = False) -> Content:
    """The elements of a BYTES tensor as files; `is_text`: base64 of them. Raises InvalidInput."""
    if tensor.dtype is not DType.BYTES:
        raise InvalidInput(
            f"input {name[:80]!r}: {tensor.dtype} with a {CONTENT_TYPE}; expected BYTES, a file an element"
        )
    elements = bytes_elements(tensor)
    return Content(content_type, [each.decode() for each in elements] if is_text else list(elements), tensor.shape)


def infer_request(document: Mapping[str, Any], contract: Contract) -> InferRequest:
    """All that is not a tensor. Raises InvalidInput."""
    parameters = parameters_of(document, "the request")
    default = parameters.get("binary_data_output", False) is True
    outputs = _outputs(document.get("outputs"), default)
    contract.check_outputs([output.name for output in outputs or ()])
    request_id = document.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > MAX_ID_CHARS):
        raise InvalidInput(f'"id" must be a string of at most {MAX_ID_CHARS} characters')
    priority = priority_of(parameters.get("priority"))
    return InferRequest(request_id, outputs, default, _timeout(parameters.get("timeout")), priority)


def infer_answer(served: Served, request: InferRequest, outputs: Mapping[str, Tensor]) -> Answer:
    """The response, binary where asked for. Borrows the outputs; binary ones follow the body as they are."""
    if request.outputs is None and not request.binary_by_default:
        return _plain_answer(served, request.request_id, outputs)
    wanted = request.outputs or tuple(WantedOutput(name, request.binary_by_default) for name in outputs)
    entries: list[dict[str, Any]] = []
    raw: list[Tensor] = []
    for output in wanted:
        tensor = outputs.get(output.name)
        if tensor is None:  # a branch that did not run
            continue
        entry: dict[str, Any] = {"name": output.name, "datatype": tensor.dtype.value, "shape": list(tensor.shape)}
        if output.binary:
            entry["parameters"] = {"binary_data_size": tensor.nbytes}
            raw.append(tensor)
        else:
            entry["data"] = _flat(output.name, tensor)
        entries.append(entry)
    head: dict[str, Any] = {"model_name": served.name, "model_version": served.version}
    if request.request_id is not None:
        head["id"] = request.request_id
    document = orjson.dumps({**head, "outputs": entries}, option=DUMP_OPTIONS)
    if not raw:
        return Answer(200, document, JSON)
    length = (HEADER_LENGTH, str(len(document)).encode())
    return Answer(200, document, BINARY, (length,), tuple(raw))


def _plain_answer(served: Served, request_id: str | None, outputs: Mapping[str, Tensor]) -> Answer:
    """All outputs as JSON."""
    entries = [
        {"name": name, "datatype": DTYPE_NAMES[tensor.dtype], "shape": tensor.shape, "data": _flat(name, tensor)}
        for name, tensor in outputs.items()
    ]
    head = {"model_name": served.name, "model_version": served.version}
    if request_id is not None:
        head["id"] = request_id
    return Answer(200, orjson.dumps({**head, "outputs": entries}, option=DUMP_OPTIONS), JSON)


def entries_of(document: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """The inputs and their names, each there once. Raises InvalidInput."""
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs or len(inputs) > MAX_TENSORS:
        raise InvalidInput(f'"inputs" must be a list of 1 to {MAX_TENSORS} tensors; expected {FORM}')
    entries: list[tuple[Mapping[str, Any], str]] = []
    for entry in inputs:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InvalidInput(f"an input has no name; expected {FORM}")
        entries.append((entry, entry["name"]))
    names = sorted(name for _, name in entries)
    if twice := [left for left, right in pairwise(names) if left == right]:
        raise InvalidInput(f"input {twice[0][:80]!r} is given twice")
    return entries


def _outputs(value: object, binary_by_default: bool) -> tuple[WantedOutput, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or len(value) > MAX_TENSORS:
        raise InvalidInput(f'"outputs" must be a list of 1 to {MAX_TENSORS} objects with a name')
    wanted = []
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InvalidInput('an output has no name; expected {"name": "<output>"}')
        parameters = parameters_of(entry, f"output {entry['name'][:80]!r}")
        wanted.append(WantedOutput(entry["name"], parameters.get("binary_data", binary_by_default) is True))
    return tuple(wanted)


def parameters_of(holder: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The parameters of a request, an input or an output. Raises InvalidInput for one that is refused by name."""
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters of {where} must be an object")
    for name, reason in REFUSED.items():
        if parameters.get(name):
            raise InvalidInput(f"parameter {name} of {where}: {reason}")
    return parameters


def _timeout(microseconds: object) -> float | None:
    if microseconds is None:
        return None
    if type(microseconds) is not int or not 1 <= microseconds <= MAX_TIMEOUT_MS * 1000:
        raise InvalidInput(f'parameter "timeout" must be an integer from 1 to {MAX_TIMEOUT_MS * 1000} microseconds')
    return microseconds / 1_000_000


def _flat(name: str, tensor: Tensor) -> Any:
    if tensor.dtype is not DType.BYTES:
        return np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.dtype]) if tensor.nbytes else []
    try:
        return [element.decode() for element in bytes_elements(tensor)]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"output {name!r} is not text; ask for it with binary_data: true") from error
