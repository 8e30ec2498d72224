"""Raw tensors taken out of messages and put into them, against protobuf: whatever bytes come, both read the same.

The messages are those of another project's client: two descriptions of one protocol do not fit into one process."""

import mmap
from collections.abc import Callable

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from podium.errors import InvalidInput
from podium.grpc_oip.wire import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_LENGTH_BYTES,
    MAX_MESSAGE_BYTES,
    InferMessage,
    answer,
    split,
)
from podium.http.transport.errors import BodyTooLargeError
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import Tensor
from podium_crds.tensors import DType

TEXTS = st.text(max_size=5)


@st.composite
def requests(draw: Callable[..., object]) -> bytes:
    """As a client's library writes them, with all kinds of fields."""
    request = ModelInferRequest(
        model_name=draw(TEXTS),
        model_version=draw(TEXTS),
        id=draw(TEXTS),
        raw_input_contents=draw(st.lists(st.binary(max_size=300), max_size=4)),
    )
    for name in draw(st.lists(TEXTS, max_size=3)):  # type: ignore[attr-defined]
        given_input = request.inputs.add(name=name, datatype="FP32", shape=draw(st.lists(st.integers(-3, 2**40))))
        given_input.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=3)))
        given_input.parameters["n"].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
    for name in draw(st.lists(TEXTS, max_size=2)):  # type: ignore[attr-defined]
        request.outputs.add(name=name)
    return request.SerializeToString()


def varint(value: int, padding: int = 0) -> bytes:
    """`padding`: bytes more than it takes."""
    digits = []
    while value >= 0x80 or (padding and len(digits) < 9):
        digits.append(value & 0x7F | 0x80)
        padding -= value < 0x80
        value >>= 7
    return bytes([*digits, value])


@st.composite
def fields(draw: Callable[..., object]) -> bytes:
    """One field of any number and wire type, well formed or not, also with longer lengths than it needs."""
    number, kind = draw(st.integers(0, 9)), draw(st.integers(0, 7))
    tag = varint(number << 3 | kind, draw(st.integers(0, 2)))  # type: ignore[operator]
    content: bytes = draw(st.binary(max_size=12))  # type: ignore[assignment]
    if kind == 2:
        wrong = draw(st.sampled_from((0, 0, 0, -1, 1, 2**31, 2**35, 2**63)))
        return tag + varint(max(0, len(content) + wrong), draw(st.integers(0, 9))) + content  # type: ignore[operator]
    return tag + content


@st.composite
def hostile(draw: Callable[..., object]) -> bytes:
    """Messages joined, cut, changed, and random bytes."""
    pieces = draw(st.lists(st.one_of(requests(), fields(), st.binary(max_size=20)), min_size=1, max_size=5))
    message = bytearray(b"".join(pieces))  # type: ignore[arg-type]
    for _ in range(draw(st.integers(0, 3))):  # type: ignore[call-overload]
        if message:
            message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))  # type: ignore[call-overload]
    return bytes(message[: draw(st.integers(0, len(message)))]) if draw(st.booleans()) else bytes(message)


def read(message: bytes) -> ModelInferRequest | None:
    try:
        return ModelInferRequest.FromString(message)
    except DecodeError:
        return None


@given(st.one_of(requests(), hostile()))
@example(b"\x3a\x80\x00\x3a\x01a")  # a length of two bytes that needs one
@example(b"\x3a\x80\x80\x80\x80\x00")
@example(b"\x3a\x80\x80\x80\x80\x80\x00")
@example(b"\xba\x00\x01a")  # the same for a tag
@example(b"\x3a\xff\xff\xff\xff\x0f")
@example(b"\x3a\x02a")
@example(b"\x0a\x01\xff\x3a\x01a")  # a text that is no UTF-8
@example(b"")
def test_a_message_read_in_parts_is_what_protobuf_reads_of_it_whole(message: bytes) -> None:
    parts = split(message)
    if parts is None:
        return
    whole, head = read(message), read(parts[0])
    assert (head is None) == (whole is None)
    if head is not None and whole is not None:
        assert [bytes(raw) for raw in parts[1]] == list(whole.raw_input_contents)
        assert not head.raw_input_contents
        whole.ClearField("raw_input_contents")
        assert head.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


@given(requests())
def test_what_a_clients_library_writes_is_never_left_to_protobuf(message: bytes) -> None:
    assert split(message) is not None


@given(hostile())
def test_a_message_is_read_or_refused_as_protobuf_does_whatever_its_size(message: bytes) -> None:
    whole = read(message)
    padding = ModelInferRequest(raw_input_contents=[bytes(INLINE_BYTES)]).SerializeToString()
    for given_message, more in ((message, []), (padding + message, [bytes(INLINE_BYTES)])):
        try:
            found = InferMessage.of(given_message, ModelInferRequest)
        except InvalidInput:
            assert whole is None
            continue
        assert whole is not None
        assert [bytes(raw) for raw in found.raw] == [*more, *whole.raw_input_contents]
        assert found.head.model_name == whole.model_name
        assert found.head.inputs == whole.inputs


def test_a_large_message_is_not_copied() -> None:
    request = ModelInferRequest(model_name="m", raw_input_contents=[bytes(INLINE_BYTES), b"b"])
    message = request.SerializeToString()
    found = InferMessage.of(message, ModelInferRequest)
    assert [raw.obj is message for raw in found.raw if isinstance(raw, memoryview)] == [True, True]


def test_more_fields_than_a_request_may_have_are_left_to_protobuf() -> None:
    assert split(b"\x3a\x00" * (MAX_FIELDS - 1)) is not None
    assert split(b"\x3a\x00" * (MAX_FIELDS + 1)) is None


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x3a\x00", b"\x22\x00", b"\x42\x00"])
def test_a_large_message_of_many_small_fields_is_refused_before_protobuf_makes_something_of_it(field: bytes) -> None:
    many = field * (MAX_HEAD_BYTES // len(field) + 1)
    with pytest.raises(BodyTooLargeError, match="beside raw_input_contents"):
        InferMessage.of(many, ModelInferRequest)


def test_typed_elements_beyond_what_the_event_loop_can_read_are_refused_and_raw_ones_are_not() -> None:
    count = MAX_HEAD_BYTES // 4
    typed = ModelInferRequest(model_name="m")
    typed.inputs.add(name="x", datatype="FP32", shape=[count]).contents.fp32_contents.extend([1.0] * count)
    with pytest.raises(BodyTooLargeError, match="send tensors there"):
        InferMessage.of(typed.SerializeToString(), ModelInferRequest)
    raw = ModelInferRequest(model_name="m", raw_input_contents=[bytes(count * 4)])
    raw.inputs.add(name="x", datatype="FP32", shape=[count])
    assert len(InferMessage.of(raw.SerializeToString(), ModelInferRequest).raw[0]) == count * 4


def test_lengths_of_more_bytes_than_any_message_has_are_left_to_protobuf() -> None:
    assert split(b"\x3a" + b"\x80" * (MAX_LENGTH_BYTES - 1) + b"\x00") is not None
    assert split(b"\x3a" + b"\x80" * MAX_LENGTH_BYTES + b"\x00") is None


@given(st.lists(st.binary(max_size=300), max_size=5), TEXTS)
def test_an_answer_is_what_protobuf_writes(raws: list[bytes], name: str) -> None:
    head = ModelInferResponse(model_name=name, model_version="1")
    tensors = [Tensor(DType.UINT8, (len(raw),), memoryview(raw)) for raw in raws]
    for tensor in tensors:
        head.outputs.add(name="y", datatype="UINT8", shape=tensor.shape)
    read_back = ModelInferResponse.FromString(answer(head, tensors))
    head.raw_output_contents.extend(raws)
    assert read_back == head


def test_a_tensor_whose_length_takes_several_bytes_comes_back() -> None:
    raw = np.arange(1 << 20, dtype=np.uint32).tobytes()
    tensor = Tensor(DType.UINT8, (len(raw),), memoryview(raw))
    assert list(ModelInferResponse.FromString(answer(ModelInferResponse(), [tensor])).raw_output_contents) == [raw]


def test_an_answer_beyond_what_a_message_takes_is_refused_before_it_is_made() -> None:
    with mmap.mmap(-1, MAX_MESSAGE_BYTES) as untouched, memoryview(untouched) as data:
        tensor = Tensor(DType.UINT8, (MAX_MESSAGE_BYTES,), data)
        with pytest.raises(BodyTooLargeError, match="ask over HTTP"):
            answer(ModelInferResponse(), [tensor])
