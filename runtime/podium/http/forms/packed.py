"""The document of `:predict` in msgpack: elements may be bin."""

from collections.abc import Mapping
from typing import Any

import msgspec

from podium.errors import InvalidInput
from podium.http.forms.contents import content_tensors
from podium.http.forms.document import Served, Tensors, checked_object
from podium.http.forms.named import content_of, is_file
from podium.http.forms.wishes import NamedRequest, chosen, wishes
from podium.http.transport.asgi import Answer
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract
from podium.serving.revisions.named_tensors import (
    binary_tensor,
    bytes_elements,
    parse_dtype,
    parse_shape,
    parse_tensors,
)
from podium_crds.tensors import DType

MSGPACK = b"application/msgpack"
MSGPACK_FORM = '{"inputs": {"<name>": {"dtype", "shape", "data": bin or array}}, "outputs": [...], "timeout_ms": …}'


def parse_msgpack(raw: bytes, contract: Contract) -> tuple[Tensors, NamedRequest]:
    """As JSON; the data of a tensor may be bin, raw little-endian elements. Raises InvalidInput."""
    try:
        value = msgspec.msgpack.decode(raw)
    except (msgspec.MsgspecError, RecursionError, ValueError, MemoryError) as error:
        raise InvalidInput(f"the body is not msgpack ({error}); expected {MSGPACK_FORM}") from error
    body = checked_object(value, "msgpack", MSGPACK_FORM)
    request = wishes(body, contract, MSGPACK_FORM)
    given = body.get("inputs")
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise InvalidInput(f'"inputs" must be a map of named tensors; expected {MSGPACK_FORM}')
    files = {name: item for name, item in given.items() if is_file(item)}
    raw_ones = {name: item for name, item in given.items() if name not in files and _is_raw(item)}
    contract.check_names(given)
    rest = {name: item for name, item in given.items() if name not in raw_ones and name not in files}
    tensors = parse_tensors(rest, contract.of_inputs(rest)) if rest else {}
    tensors.update({name: _raw_tensor(name, item, contract) for name, item in raw_ones.items()})
    tensors |= content_tensors({name: content_of(name, item) for name, item in files.items()}, contract)
    if not tensors:
        raise InvalidInput(f'"inputs" is empty; expected {MSGPACK_FORM}')
    contract.check(tensors)
    return tensors, request


def msgpack_answer(served: Served, request: NamedRequest, outputs: Mapping[str, Tensor]) -> Answer:
    """Named tensors, their elements as bin; BYTES as an array of bin."""
    shown = {
        name: {
            "dtype": tensor.dtype.value,
            "shape": list(tensor.shape),
            "data": list(bytes_elements(tensor)) if tensor.dtype is DType.BYTES else tensor.data,
        }
        for name, tensor in chosen(outputs, request.outputs).items()
    }
    head = {"model": served.name, "version": served.version, "revision": served.revision}
    return Answer(200, msgspec.msgpack.encode({**head, "outputs": shown}), MSGPACK)


def _is_raw(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("data"), bytes)


def _raw_tensor(name: str, item: Mapping[str, Any], contract: Contract) -> Tensor:
    spec = contract.inputs.get(name)
    if unknown := [key for key in item if key not in ("dtype", "shape", "data")]:
        raise InvalidInput(f"input {name!r}: unknown key {str(unknown[0])[:80]!r}; expected dtype, shape and data")
    if "shape" not in item:
        raise InvalidInput(f"input {name!r}: raw data needs a shape")
    dtype = parse_dtype(name, item.get("dtype", spec.dtype if spec else None))
    try:
        return binary_tensor(dtype, parse_shape(name, item["shape"]), memoryview(item["data"]))
    except InvalidInput as error:
        raise InvalidInput(f"input {name!r}: {error}") from error
