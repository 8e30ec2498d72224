"""Raw tensors of messages, taken and put beside protobuf, which would copy each of them twice more. Pure.

Only the fields of the message itself are walked, and only in the one form in which clients write them: what is written
otherwise, and is small, is left to protobuf whole, which gives the same: tests hold the two against each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from podium.errors import InvalidInput
from podium.http.transport.errors import BodyTooLargeError
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import Tensor

if TYPE_CHECKING:
    from podium.grpc_oip.open_inference_pb2 import ModelInferRequest

Read = TypeVar("Read", bound=Message)

_BYTES = 2
"""Wire type of everything that has a length in front."""
FIELDS = frozenset(number << 3 | _BYTES for number in range(1, 8))
"""Tags of ModelInferRequest; all of its fields are texts, messages or bytes."""
RAW_INPUTS = 7 << 3 | _BYTES
RAW_OUTPUTS = 6 << 3 | _BYTES
MAX_FIELDS = 512
"""Of a message that is walked: far above what a request may have, and few enough for the event loop."""
MAX_HEAD_BYTES = 1 << 20
"""Of all but raw tensors: protobuf makes up to 40 times as much of it (empty inputs), and typed elements become
Python's numbers one by one, all of it in the event loop."""
MAX_LENGTH_BYTES = 5
MAX_MESSAGE_BYTES = 2**31 - 1
"""Of Protocol Buffers."""


@dataclass(frozen=True, slots=True)
class InferMessage:
    """A ModelInferRequest: all but the raw tensors, and those as they lie in what came over the connection."""

    head: "ModelInferRequest"
    raw: Sequence[memoryview | bytes]

    @classmethod
    def of(cls, message: bytes, kind: "type[ModelInferRequest]") -> "InferMessage":
        """`kind`: the generated class. Raises InvalidInput, and BodyTooLargeError for more than MAX_HEAD_BYTES beside
        raw tensors."""
        parts = split(message) if len(message) > INLINE_BYTES else None
        if parts is None and len(message) > MAX_HEAD_BYTES:
            raise BodyTooLargeError(
                f"of {len(message)} bytes, more than {MAX_HEAD_BYTES}, or more than {MAX_FIELDS} fields, are beside "
                "raw_input_contents; send tensors there"
            )
        if parts is None:
            head = read(kind, message)
            return cls(head, head.raw_input_contents)
        return cls(read(kind, parts[0]), parts[1])


def read(kind: type[Read], message: bytes) -> Read:
    """All of a message, by protobuf. Raises InvalidInput."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the {len(message)} bytes of the message are no {kind.DESCRIPTOR.full_name}") from error


def split(message: bytes) -> tuple[bytes, list[memoryview]] | None:
    """The message without its raw inputs, and these as views of it; None where protobuf has to read it whole: it is
    written in an unusual form, or has more fields, or more beside raw inputs, than is walked."""
    view, position, copied_to, head_bytes = memoryview(message), 0, 0, 0
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    for _ in range(MAX_FIELDS):
        if position == len(message):
            return b"".join([*rest, view[copied_to:]]), raw
        found = _field(message, position)
        if found is None:
            return None
        start, end = found
        if message[position] == RAW_INPUTS:
            rest.append(view[copied_to:position])
            raw.append(view[start:end])
            copied_to = end
        else:
            head_bytes += end - position
        if head_bytes > MAX_HEAD_BYTES:
            return None
        position = end
    return None


def answer(head: Message, outputs: Iterable[Tensor]) -> bytes:
    """The serialized head with the tensors as its raw outputs: fields of a message may come in any order, so that
    what follows a message adds to it. Copies each tensor once. Raises BodyTooLargeError."""
    parts: list[bytes | memoryview] = [head.SerializeToString()]
    for tensor in outputs:
        parts += (bytes((RAW_OUTPUTS, *_varint(tensor.nbytes))), tensor.data)
    total = sum(map(len, parts))
    if total > MAX_MESSAGE_BYTES:
        raise BodyTooLargeError(
            f"the answer has {total} bytes; a message of gRPC takes {MAX_MESSAGE_BYTES}: ask over HTTP"
        )
    return b"".join(parts)


def _field(message: bytes, position: int) -> tuple[int, int] | None:
    """Where the content of the field at `position` begins and ends; None where it is not of the usual form."""
    if message[position] not in FIELDS:
        return None
    length = shift = 0
    for byte in message[position + 1 : position + 1 + MAX_LENGTH_BYTES]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            start = position + 1 + shift // 7
            return (start, start + length) if start + length <= len(message) else None
    return None


def _varint(value: int) -> Iterable[int]:
    while value >= 0x80:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
