"""Open Inference Protocol v2 REST: `/v2/models/{name}/infer`, JSON and the binary tensor data extension.

With the header Inference-Header-Content-Length the body is JSON of that length, then raw little-endian tensors in the
order in which they are declared; each is read from the socket into its place in the arena.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from podium.errors import InvalidInput, Overloaded
from podium.http.asgi import BINARY, DUMP_OPTIONS, JSON, Answer, Fields
from podium.http.body import BodyReader
from podium.http.errors import BodyTooLargeError
from podium.http.limits import MAX_TIMEOUT_MS
from podium.http.predict import parse_object
from podium.ipc.arena import Arena
from podium.ipc.tensor import NUMPY_DTYPES, Tensor, check_layout, element_ends
from podium.serving.contract import described
from podium.serving.live import LiveRevision
from podium.serving.named_tensors import (
    MAX_TENSORS,
    bytes_elements,
    check_elements,
    parse_dtype,
    parse_shape,
    parse_tensor,
    text_tensor,
)
from podium_crds.tensors import DType, TensorSpec

HEADER_LENGTH = b"inference-header-content-length"
FORM = '{"inputs": [{"name", "shape", "datatype", "data"}], "outputs": [{"name"}]}'
INLINE_BYTES = 4096
"""Below this a tensor stays on the heap: it will travel inside the message."""
MAX_ID_CHARS = 256
MAX_LENGTH_DIGITS = 12
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
class OipRequest:
    """What the body asks for. Tensors are owned by the request: release them."""

    request_id: str | None
    inputs: dict[str, Tensor]
    outputs: tuple[WantedOutput, ...] | None
    """None: all of them."""
    binary_by_default: bool
    timeout_s: float | None


@dataclass(slots=True)
class Receiving:
    """Bodies that are coming in hold at most half of the arena, so that answers always find room."""

    arena: Arena
    held_bytes: int = 0

    @property
    def limit_bytes(self) -> int:
        """Half of the arena."""
        return self.arena.size_bytes // 2


@dataclass(slots=True)
class _Declared:
    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int
    tensor: Tensor | None = field(default=None)


async def read_infer(fields: Fields, body: BodyReader, revision: LiveRevision, receiving: Receiving) -> OipRequest:
    """The request of a body, its inputs checked against the contract. Raises InvalidInput, Overloaded."""
    length = fields.get(HEADER_LENGTH)
    if length is None:
        document = parse_object(await body.read_json(), FORM)
        tensors = _json_inputs(document, revision)
    elif length == b"0":
        return await _raw_input(body, revision, receiving)
    else:
        if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
            raise InvalidInput(
                "Inference-Header-Content-Length must be the length of the JSON part in bytes, "
                "or 0 where the whole body is the one input"
            )
        document = parse_object(await body.read_exactly(int(length)), FORM)
        tensors = await _binary_inputs(document, body, revision, receiving)
    try:
        revision.contract.check(tensors)
        return _request(document, tensors, revision)
    except BaseException:
        release(tensors)
        raise


def _request(document: Mapping[str, Any], tensors: dict[str, Tensor], revision: LiveRevision) -> OipRequest:
    parameters = _parameters(document, "the request")
    default = parameters.get("binary_data_output", False) is True
    outputs = _outputs(document.get("outputs"), default)
    revision.contract.check_outputs([output.name for output in outputs or ()])
    request_id = document.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > MAX_ID_CHARS):
        raise InvalidInput(f'"id" must be a string of at most {MAX_ID_CHARS} characters')
    return OipRequest(request_id, tensors, outputs, default, _timeout(parameters.get("timeout")))


def infer_answer(revision: LiveRevision, request: OipRequest, outputs: dict[str, Tensor]) -> Answer:
    """The response, binary where asked for. Borrows the outputs; binary ones are copied once, into the body."""
    wanted = request.outputs or tuple(WantedOutput(name, request.binary_by_default) for name in outputs)
    entries: list[dict[str, Any]] = []
    raw: list[memoryview] = []
    for output in wanted:
        tensor = outputs.get(output.name)
        if tensor is None:  # a branch that did not run
            continue
        entry: dict[str, Any] = {"name": output.name, "datatype": tensor.dtype.value, "shape": list(tensor.shape)}
        if output.binary:
            entry["parameters"] = {"binary_data_size": tensor.nbytes}
            raw.append(tensor.data)
        else:
            entry["data"] = _flat(output.name, tensor)
        entries.append(entry)
    head: dict[str, Any] = {"model_name": revision.resource.name, "model_version": revision.spec.version}
    if request.request_id is not None:
        head["id"] = request.request_id
    document = orjson.dumps({**head, "outputs": entries}, option=DUMP_OPTIONS)
    if not raw:
        return Answer(200, document, JSON)
    length = (HEADER_LENGTH, str(len(document)).encode())
    return Answer(200, b"".join((document, *raw)), BINARY, (length,))


def release(tensors: Mapping[str, Tensor]) -> None:
    """Gives up each."""
    for tensor in tensors.values():
        tensor.release()


def _json_inputs(document: Mapping[str, Any], revision: LiveRevision) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for entry, name in _entries(document):
        if "binary_data_size" in _parameters(entry, f"input {name!r}"):
            raise InvalidInput(f"input {name!r}: binary_data_size needs the header Inference-Header-Content-Length")
        tensors[name] = _json_input(entry, name, revision)
    return tensors


def _json_input(entry: Mapping[str, Any], name: str, revision: LiveRevision) -> Tensor:
    if "data" not in entry:
        raise InvalidInput(f"input {name!r}: data is missing")
    form = {"dtype": entry.get("datatype"), "shape": entry.get("shape"), "data": entry["data"]}
    return parse_tensor(name, form, revision.contract.inputs.get(name))


async def _binary_inputs(
    document: Mapping[str, Any], body: BodyReader, revision: LiveRevision, receiving: Receiving
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    declared: list[_Declared] = []
    for entry, name in _entries(document):
        size = _parameters(entry, f"input {name!r}").get("binary_data_size")
        if size is None:
            tensors[name] = _json_input(entry, name, revision)
        else:
            declared.append(_declared(entry, name, size))
    revision.contract.check_names([*tensors, *(item.name for item in declared)])
    tensors.update(await _received(declared, body, receiving))
    return {name: tensors[name] for _, name in _entries(document)}


async def _raw_input(body: BodyReader, revision: LiveRevision, receiving: Receiving) -> OipRequest:
    """The body is the one input, its open dimension what the length makes of it; answered in binary."""
    name, spec = sole_input(revision)
    if body.length is None:
        raise InvalidInput("a body that is one raw input needs a Content-Length")
    if spec.dtype is DType.BYTES:  # one element; its length in front is left out, as the extension has it
        raw = await body.read_exactly(body.length)
        tensors = {name: text_tensor([raw], (1,) * len(spec.shape))}
    else:
        shape = shape_of(spec, body.length)
        tensors = await _received([_Declared(name, spec.dtype, shape, body.length)], body, receiving)
    return OipRequest(None, tensors, None, binary_by_default=True, timeout_s=None)


def sole_input(revision: LiveRevision) -> tuple[str, TensorSpec]:
    """The input of a body that names none. Raises InvalidInput where the model declares another number of them."""
    specs = revision.contract.inputs
    wanted = [name for name in specs if name in revision.contract.required] or list(specs)
    spec = specs[wanted[0]] if len(wanted) == 1 else None
    if spec is None:
        raise InvalidInput(
            f"such a body is for models that declare one input; {revision.resource.name} declares {len(wanted)}: "
            "name them, as JSON or with the binary extension"
        )
    return wanted[0], spec


def shape_of(spec: TensorSpec, nbytes: int) -> tuple[int, ...]:
    """The shape that so many bytes have; at most one dimension of the spec may be open. Raises InvalidInput."""
    fixed = NUMPY_DTYPES[spec.dtype].itemsize * _count(tuple(dim for dim in spec.shape if dim != -1))
    is_open = spec.shape.count(-1)
    if is_open > 1:
        raise InvalidInput(f"input {spec.name!r} has {is_open} open dimensions: send its shape along")
    rows = nbytes // fixed if is_open and fixed else 1
    if fixed * rows != nbytes:
        raise InvalidInput(f"{nbytes} bytes are no {described(spec)}: expected a multiple of {fixed}")
    return tuple(rows if dim == -1 else dim for dim in spec.shape)


async def _received(declared: list[_Declared], body: BodyReader, receiving: Receiving) -> dict[str, Tensor]:
    """Raw tensors from the socket, within what bodies may hold."""
    total = sum(item.nbytes for item in declared)
    if total > receiving.limit_bytes:
        raise BodyTooLargeError(f"{total} bytes of input; this pod's shared memory takes {receiving.limit_bytes}")
    if receiving.held_bytes + total > receiving.limit_bytes:
        raise Overloaded(f"no room for {total} bytes of input now; bodies may hold {receiving.limit_bytes} bytes", 1.0)
    receiving.held_bytes += total
    try:
        await _fill(declared, total, body, receiving.arena)
    except BaseException:
        release({item.name: item.tensor for item in declared if item.tensor is not None})
        raise
    finally:
        receiving.held_bytes -= total
    return {item.name: item.tensor for item in declared if item.tensor is not None}


async def _fill(declared: list[_Declared], total: int, body: BodyReader, arena: Arena) -> None:
    """Reads every tensor from the socket into its place."""
    for item in declared:
        item.tensor = _place(item, arena)
    came = await body.read_into([item.tensor.data for item in declared if item.tensor is not None])
    if came != total:
        raise InvalidInput(f"{came} bytes follow the JSON part; the inputs declare {total}")
    for item in declared:
        assert item.tensor is not None, "placed above"
        item.tensor = arena.seal(item.tensor)
        if item.dtype is DType.BYTES:
            element_ends(item.tensor.data, _count(item.shape))


def _place(item: _Declared, arena: Arena) -> Tensor:
    if item.nbytes < INLINE_BYTES:
        return Tensor(item.dtype, item.shape, memoryview(bytearray(item.nbytes)))
    return arena.tensor(item.dtype, item.shape, item.nbytes)


def _declared(entry: Mapping[str, Any], name: str, size: object) -> _Declared:
    if type(size) is not int or size < 0:
        raise InvalidInput(f"input {name!r}: binary_data_size must be a number of bytes")
    if "data" in entry:
        raise InvalidInput(f"input {name!r}: expected either data or binary_data_size")
    dtype = parse_dtype(name, entry.get("datatype"))
    shape = parse_shape(name, entry.get("shape"))
    try:
        check_layout(dtype, shape, size)
        if dtype is DType.BYTES:
            check_elements(shape)
    except InvalidInput as error:
        raise InvalidInput(f"input {name!r}: {error}") from error
    return _Declared(name, dtype, shape, size)


def _entries(document: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
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
        parameters = _parameters(entry, f"output {entry['name'][:80]!r}")
        wanted.append(WantedOutput(entry["name"], parameters.get("binary_data", binary_by_default) is True))
    return tuple(wanted)


def _parameters(holder: Mapping[str, Any], where: str) -> Mapping[str, Any]:
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
        array = tensor.array().reshape(-1)
        return array if array.size else []
    try:
        return [element.decode() for element in bytes_elements(tensor)]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"output {name!r} is not text; ask for it with binary_data: true") from error


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count
