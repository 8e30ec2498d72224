"""What the front end and the codec process say to each other over a socket pair: a head in msgpack, then raw bytes."""

from struct import Struct
from typing import Any

import msgspec

from podium.http.forms.document import Served
from podium.http.forms.table import Form

LENGTH = Struct("<I")
MAX_HEAD_BYTES = 4 << 20
MAX_REPLY_BYTES = 512 << 20
CODEC_FD = 3


class TensorHead(msgspec.Struct, frozen=True):
    """One tensor; its bytes follow the head, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class ReadJob(msgspec.Struct, frozen=True, tag="read"):
    """Read a body, whose bytes follow."""

    form: Form
    inputs: dict[str, dict[str, Any] | None]
    outputs: dict[str, dict[str, Any] | None]
    nbytes: int


class WriteJob(msgspec.Struct, frozen=True, tag="write"):
    """Write an answer from tensors, whose bytes follow."""

    form: Form
    served: Served
    request: bytes
    """What the body asked for, in msgpack."""
    tensors: tuple[TensorHead, ...]


class Read(msgspec.Struct, frozen=True, tag="done-read"):
    """The tensors of a body."""

    request: bytes
    tensors: tuple[TensorHead, ...]


class Written(msgspec.Struct, frozen=True, tag="done-write"):
    """An answer; its body follows."""

    status: int
    content_type: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    nbytes: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The job's fault, by the name of its class in podium.errors or podium.http.transport.errors; or ours, without."""

    error: str
    message: str


Job = ReadJob | WriteJob
Reply = Read | Written | Refused
JOBS = msgspec.msgpack.Decoder(Job)
REPLIES = msgspec.msgpack.Decoder(Reply)
ENCODER = msgspec.msgpack.Encoder()


def framed(head: Job | Reply) -> bytes:
    """The head with its length in front."""
    encoded = ENCODER.encode(head)
    return LENGTH.pack(len(encoded)) + encoded
