"""Tensors of gRPC messages ↔ Tensor. Sizes are checked before anything is made of them."""

from collections.abc import Mapping

import numpy as np

from podium.errors import InvalidInput
from podium.grpc_oip.open_inference_pb2 import InferTensorContents, ModelInferResponse
from podium.grpc_oip.wire import InferMessage, answer
from podium.http.forms.contents import CONTENT_TYPE, content_type_of
from podium.http.inference.oip import release
from podium.ipc.arena import Arena
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import NUMPY_DTYPES, Tensor, check_layout, element_ends
from podium.serving.revisions.named_tensors import MAX_TENSORS, check_elements, parse_dtype, parse_shape
from podium.telemetry.counting import BodyCounts
from podium_crds.tensors import DType

CONTENTS: Mapping[DType, str] = {
    DType.BOOL: "bool_contents",
    DType.INT8: "int_contents",
    DType.INT16: "int_contents",
    DType.INT32: "int_contents",
    DType.INT64: "int64_contents",
    DType.UINT8: "uint_contents",
    DType.UINT16: "uint_contents",
    DType.UINT32: "uint_contents",
    DType.UINT64: "uint64_contents",
    DType.FP32: "fp32_contents",
    DType.FP64: "fp64_contents",
    DType.BYTES: "bytes_contents",
}
"""Where typed elements are. FP16 has none: it travels raw."""


def read_inputs(message: InferMessage) -> dict[str, Tensor]:
    """The request's tensors, on the heap, raw ones within the message. Raises InvalidInput."""
    request, raw = message.head, message.raw
    if not 1 <= len(request.inputs) <= MAX_TENSORS:
        raise InvalidInput(f"a request has 1 to {MAX_TENSORS} inputs, this one {len(request.inputs)}")
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; expected one each, or none"
        )
    found: dict[str, Tensor] = {}
    for index, given in enumerate(request.inputs):
        if given.name in found:
            raise InvalidInput(f"input {given.name[:80]!r} is given twice")
        dtype, shape = parse_dtype(given.name, given.datatype), parse_shape(given.name, list(given.shape))
        if raw and given.HasField("contents"):
            raise InvalidInput(f"input {given.name[:80]!r} has contents beside raw_input_contents; expected either")
        try:
            if dtype is DType.BYTES:
                check_elements(shape)
            found[given.name] = _raw(dtype, shape, raw[index]) if raw else _typed(dtype, shape, given.contents)
        except InvalidInput as error:
            raise InvalidInput(f"input {given.name[:80]!r}: {error}") from error
    return found


def content_types(message: InferMessage) -> dict[str, str]:
    """What files are read by, of the inputs that hold some. Raises InvalidInput, UnsupportedMediaTypeError."""
    found: dict[str, str] = {}
    for given in message.head.inputs:
        if CONTENT_TYPE in given.parameters:
            value = given.parameters[CONTENT_TYPE].string_param
            if content_type := content_type_of(value, f"input {given.name[:80]!r}"):
                found[given.name] = content_type
    return found


def placed(inputs: Mapping[str, Tensor], arena: Arena, counts: BodyCounts) -> dict[str, Tensor]:
    """The same, large ones copied into slots, for steps that would each do so; owned by the caller. Raises
    ArenaExhausted."""
    found: dict[str, Tensor] = {}
    try:
        for name, tensor in inputs.items():
            if tensor.nbytes <= INLINE_BYTES:
                found[name] = tensor
                continue
            slot = found[name] = arena.tensor(tensor.dtype, tensor.shape, tensor.nbytes)
            slot.data[:] = tensor.data
            found[name] = arena.seal(slot)
            counts.in_copies += 1
            counts.in_copied_bytes += tensor.nbytes
    except BaseException:
        release(found)
        raise
    return found


def written(response: ModelInferResponse, outputs: Mapping[str, Tensor], counts: BodyCounts) -> bytes:
    """The message with the outputs, raw. Their bytes are copied. Raises BodyTooLargeError."""
    for name, tensor in outputs.items():
        response.outputs.add(name=name, datatype=tensor.dtype.value, shape=tensor.shape)
        counts.out_bytes += tensor.nbytes
        counts.out_copies += 1
        counts.out_copied_bytes += tensor.nbytes
    return answer(response, outputs.values())


def _raw(dtype: DType, shape: tuple[int, ...], data: memoryview | bytes) -> Tensor:
    check_layout(dtype, shape, len(data))
    tensor = Tensor(dtype, shape, memoryview(data))
    if dtype is DType.BYTES:
        element_ends(tensor.data, int(np.prod(shape, dtype=np.int64)))
    return tensor


def _typed(dtype: DType, shape: tuple[int, ...], contents: InferTensorContents) -> Tensor:
    field = CONTENTS.get(dtype)
    if field is None:
        raise InvalidInput(f"{dtype} has no typed contents; send raw_input_contents")
    elements = getattr(contents, field)
    count = int(np.prod(shape, dtype=np.int64))
    if len(elements) != count:
        raise InvalidInput(f"{field} has {len(elements)} elements, shape {list(shape)} takes {count}")
    if dtype is DType.BYTES:
        array = np.empty(count, dtype=object)
        array[:] = list(elements)
        return Tensor.from_array(array.reshape(shape))
    wide = np.array(elements)
    array = wide.astype(NUMPY_DTYPES[dtype])
    if wide.dtype.kind in "iu" and not np.array_equal(array, wide):
        raise InvalidInput(f"{field} has elements that {dtype} cannot hold")
    return Tensor.from_array(array.reshape(shape))
