"""Open Inference Protocol v2 REST: bodies with the binary tensor data extension.

With the header Inference-Header-Content-Length the body is JSON of that length, then raw little-endian tensors in the
order in which they are declared; each is read from the socket into its place in the arena. With the value 0 the whole
body is the one input.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from podium.errors import InvalidInput
from podium.http.codec.codecs import Codecs
from podium.http.forms.contents import CONTENT_TYPE, Content, content_type_of
from podium.http.forms.document import Tensors, parse_object
from podium.http.forms.infer import (
    FORM,
    InferRequest,
    content_of_tensor,
    entries_of,
    infer_request,
    json_files,
    json_input,
    parameters_of,
)
from podium.http.forms.sole import shape_of, sole_input
from podium.http.transport.body import BodyReader
from podium.http.transport.errors import BodyTooLargeError
from podium.http.transport.growing import read_growing
from podium.http.transport.receiving import Receiving
from podium.ipc.arena import Arena
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import Tensor, check_layout, element_ends
from podium.serving.revisions.contract import Contract
from podium.serving.revisions.named_tensors import check_elements, parse_dtype, parse_shape, text_tensor
from podium_crds.tensors import DType, TensorSpec

MAX_LENGTH_DIGITS = 12


@dataclass(slots=True)
class _Declared:
    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int
    tensor: Tensor | None = field(default=None)


async def read_infer(
    length: bytes, body: BodyReader, contract: Contract, receiving: Receiving, codecs: Codecs
) -> tuple[Tensors, InferRequest]:
    """The request of a body whose JSON part has that length, its inputs checked against the contract and owned by the
    caller. Raises InvalidInput, Overloaded."""
    if length == b"0":
        return await _raw_input(body, contract, receiving)
    if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
        raise InvalidInput(
            "Inference-Header-Content-Length must be the length of the JSON part in bytes, "
            "or 0 where the whole body is the one input"
        )
    document = parse_object(await body.read_exactly(int(length)), FORM)
    tensors = await _binary_inputs(document, body, contract, receiving, codecs)
    try:
        contract.check(tensors)
        return tensors, infer_request(document, contract)
    except BaseException:
        release(tensors)
        raise


def release(tensors: Mapping[str, Tensor]) -> None:
    """Gives up each."""
    for tensor in tensors.values():
        tensor.release()


async def _binary_inputs(
    document: Mapping[str, Any], body: BodyReader, contract: Contract, receiving: Receiving, codecs: Codecs
) -> Tensors:
    tensors: dict[str, Tensor] = {}
    declared: list[_Declared] = []
    files: dict[str, Content] = {}
    types: dict[str, str] = {}
    for entry, name in entries_of(document):
        parameters = parameters_of(entry, f"input {name!r}")
        size, content_type = parameters.get("binary_data_size"), parameters.get(CONTENT_TYPE)
        if content_type := content_type_of(content_type, f"input {name[:80]!r}"):
            types[name] = content_type
        if size is not None:
            declared.append(_declared(entry, name, size))
        elif content_type:
            files[name] = json_files(entry, name, content_type)
        else:
            tensors[name] = json_input(entry, name, contract)
    contract.check_names([*tensors, *files, *(item.name for item in declared)])
    tensors.update(await _received(declared, body, receiving))
    if types:
        await read_files(tensors, types, files, contract, codecs)
    return {name: tensors[name] for _, name in entries_of(document)}


async def read_files(
    tensors: Tensors, types: Mapping[str, str], files: Mapping[str, Content], contract: Contract, codecs: Codecs
) -> None:
    """Puts what files stand for in their place: `files`, and the tensors that have a content type in `types`. Raises as
    Codecs.read; the tensors are released then."""
    try:
        given = {name: content_of_tensor(name, types[name], tensors[name]) for name in types if name in tensors}
        read = await codecs.read_files({**given, **files}, contract)
    except BaseException:
        release(tensors)
        raise
    release({name: tensors[name] for name in given})
    tensors.update(read)


async def _raw_input(body: BodyReader, contract: Contract, receiving: Receiving) -> tuple[Tensors, InferRequest]:
    """The body is the one input, its open dimension what the length makes of it; answered in binary."""
    name, spec = sole_input(contract)
    if body.length is None:
        tensors = {name: _as_input(await read_growing(body, receiving), spec)}
    elif spec.dtype is DType.BYTES:  # one element; its length in front is left out, as the extension has it
        raw = await body.read_exactly(body.length)
        tensors = {name: text_tensor([raw], (1,) * len(spec.shape))}
    else:
        shape = shape_of(spec, body.length)
        tensors = await _received([_Declared(name, spec.dtype, shape, body.length)], body, receiving)
    return tensors, InferRequest(None, None, binary_by_default=True, timeout_s=None)


def _as_input(raw: Tensor, spec: TensorSpec) -> Tensor:
    """The whole body as the one input; takes over the lease."""
    try:
        if spec.dtype is not DType.BYTES:
            return Tensor(spec.dtype, shape_of(spec, raw.nbytes), raw.data, raw.lease)
        text = text_tensor([bytes(raw.data)], (1,) * len(spec.shape))
    except BaseException:
        raw.release()
        raise
    raw.release()
    return text


async def _received(declared: list[_Declared], body: BodyReader, receiving: Receiving) -> dict[str, Tensor]:
    """Raw tensors from the socket, within what bodies may hold."""
    total = sum(item.nbytes for item in declared)
    if total > receiving.limit_bytes:
        raise BodyTooLargeError(f"{total} bytes of input; this pod's shared memory takes {receiving.limit_bytes}")
    body.expect(total)
    with receiving.room(total):
        try:
            await _fill(declared, body, receiving.arena)
        except BaseException:
            release({item.name: item.tensor for item in declared if item.tensor is not None})
            raise
    return {item.name: item.tensor for item in declared if item.tensor is not None}


async def _fill(declared: list[_Declared], body: BodyReader, arena: Arena) -> None:
    """Reads every tensor from the socket into its place."""
    for item in declared:
        item.tensor = _place(item, arena)
    await body.read_into([item.tensor.data for item in declared if item.tensor is not None])
    for item in declared:
        assert item.tensor is not None, "placed above"
        item.tensor = arena.seal(item.tensor)
        if item.dtype is DType.BYTES:
            element_ends(item.tensor.data, prod(item.shape))


def _place(item: _Declared, arena: Arena) -> Tensor:
    if item.nbytes <= INLINE_BYTES:  # it will travel in the message
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
