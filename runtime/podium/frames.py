"""Frames of `/rpc`: a header of 32 bytes, big-endian, and a payload of msgpack. A leaf; server and client share it.

The layout is in docs/rpc.md. `Message` is what a side has once all frames of it are here: nothing is kept of a frame
that breaks a rule.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import TypeVar

import msgspec

MEDIA_TYPE = "application/x-podium-rpc"
MAGIC = 0x4E56
VERSION = 1
STREAM_ID = 1
MAX_PAYLOAD_BYTES = 4 << 20
"""Of one frame; a longer message takes several DATA frames."""
MORE = 0x01
"""Flag of a DATA frame: the next DATA frame goes on with the same message."""

_T = TypeVar("_T", bound=msgspec.Struct)
_HEADER = Struct("!HBBB3sQIIII")
HEADER_BYTES = _HEADER.size


class FrameError(ValueError):
    """Bytes that are no frame, or a frame where it must not be. Says what was expected."""


class FrameKind(IntEnum):
    """What a frame is."""

    OPEN = 1
    DATA = 2
    END = 3
    ERROR = 4
    HEARTBEAT = 5


KINDS = frozenset(int(kind) for kind in FrameKind)


class RpcCode(IntEnum):
    """How a call ended."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    """Cancelled."""
    INTERNAL = 13
    UNAVAILABLE = 14


class Open(msgspec.Struct):
    """Payload of OPEN."""

    pipeline: str


class End(msgspec.Struct):
    """Payload of END."""

    status: int = 0
    chunks: int = 0
    """Messages before it: who counted fewer has lost some."""


class Broken(msgspec.Struct):
    """Payload of ERROR."""

    code: int
    message: str
    retryable: bool
    reason: str = ""
    """The code of the error as other routes give it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `payload` is a window into what it was read from."""

    kind: FrameKind
    request: int
    payload: memoryview
    more: bool = False


def frame(kind: FrameKind, request: int, payload: bytes | memoryview = b"", *, more: bool = False) -> bytes:
    """One frame, its checksum filled in. `request`: any number of 64 bits."""
    assert len(payload) <= MAX_PAYLOAD_BYTES, f"a payload of {len(payload)} bytes takes several frames"
    head = _HEADER.pack(
        MAGIC, VERSION, kind, MORE if more else 0, bytes(3), request, STREAM_ID, len(payload), zlib.crc32(payload), 0
    )
    return head + payload


def message(request: int, payload: bytes | memoryview) -> bytes:
    """One message as DATA frames."""
    window, frames = memoryview(payload), []
    while True:
        piece, window = window[:MAX_PAYLOAD_BYTES], window[MAX_PAYLOAD_BYTES:]
        frames.append(frame(FrameKind.DATA, request, piece, more=bool(window)))
        if not window:
            return b"".join(frames)


def structured(kind: FrameKind, request: int, payload: msgspec.Struct) -> bytes:
    """OPEN, END or ERROR."""
    return frame(kind, request, msgspec.msgpack.encode(payload))


def call_bytes(request: int, name: str, payload: bytes) -> bytes:
    """A whole request: OPEN, its one message and END."""
    opened, ended = structured(FrameKind.OPEN, request, Open(name)), structured(FrameKind.END, request, End())
    return b"".join((opened, message(request, payload), ended))


def frames_of(data: memoryview) -> Iterator[Frame]:
    """Every frame of a whole body. Raises FrameError."""
    position = 0
    while position < len(data):
        size = frame_bytes(data[position:])
        if size is None or position + size > len(data):
            raise FrameError(f"the body ends within a frame, {len(data) - position} bytes into it")
        yield parsed(data[position : position + size])
        position += size


class FrameBuffer:
    """Frames out of bytes that come in pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are whole with it. Raises FrameError."""
        self._rest += piece
        while (size := frame_bytes(memoryview(bytes(self._rest[:HEADER_BYTES])))) is not None:
            if size > len(self._rest):
                return
            whole = bytes(self._rest[:size])
            del self._rest[:size]
            yield parsed(memoryview(whole))

    def finish(self) -> None:
        """Nothing more comes. Raises FrameError where that is within a frame."""
        if self._rest:
            raise FrameError(f"it ends within a frame, {len(self._rest)} bytes into it")


def frame_bytes(data: memoryview) -> int | None:
    """Size of the frame that `data` begins with; None where its header is not complete. Raises FrameError."""
    if len(data) < HEADER_BYTES:
        return None
    magic, version, _, _, _, _, _, size, _, extension = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise FrameError(f"a frame begins with 0x{magic:04x}; expected 0x{MAGIC:04x}, big-endian")
    if version != VERSION:
        raise FrameError(f"version {version} of frames is not spoken here; expected {VERSION}")
    if size > MAX_PAYLOAD_BYTES:
        raise FrameError(f"a frame of {size} bytes; expected at most {MAX_PAYLOAD_BYTES}, the rest in further frames")
    if extension:
        raise FrameError("the header has an extension; expected none")
    return int(HEADER_BYTES + size)


def parsed(data: memoryview) -> Frame:
    """One whole frame. Raises FrameError."""
    _, _, kind, flags, reserved, request, stream, _, checksum, _ = _HEADER.unpack_from(data)
    payload = data[HEADER_BYTES:]
    if kind not in KINDS:
        raise FrameError(f"a frame of type {kind}; expected 1 to 5")
    if flags & ~MORE or any(reserved):
        raise FrameError(f"flags 0x{flags:02x} or reserved bytes are set; expected 0x00 or 0x01, and zeros")
    if stream != STREAM_ID:
        raise FrameError(f"a frame of stream {stream}; expected {STREAM_ID}")
    if checksum and zlib.crc32(payload) != checksum:
        raise FrameError("the checksum of a frame does not match its payload")
    return Frame(FrameKind(kind), request, payload, bool(flags & MORE))


@dataclass(frozen=True, slots=True)
class Call:
    """A whole request."""

    request: int
    pipeline: str
    payload: list[memoryview]
    """The message, in pieces."""


def call_of(frames: Iterable[Frame]) -> Call:
    """OPEN, one or more DATA, END, nothing else and all of one request. Raises FrameError."""
    opened: Open | None = None
    request, pieces, ended, in_message = 0, list[memoryview](), False, True
    for found in frames:
        if ended:
            raise FrameError(f"{found.kind.name} after END; expected nothing")
        if opened is None:
            if found.kind is not FrameKind.OPEN:
                raise FrameError(f"the first frame is {found.kind.name}; expected OPEN")
            opened, request = read(found, Open), found.request
        elif found.request != request:
            raise FrameError(f"a frame of request {found.request} in a call of request {request}")
        elif found.kind is FrameKind.DATA:
            pieces.append(found.payload)
            in_message = found.more
        elif found.kind is FrameKind.END:
            ended = True
        elif found.kind is not FrameKind.HEARTBEAT:
            raise FrameError(f"a second {found.kind.name}; expected DATA or END")
    if opened is None:
        raise FrameError("the body has no frame; expected OPEN, DATA, END")
    if not pieces:
        raise FrameError("no DATA frame; expected OPEN, DATA, END")
    if not ended or in_message:
        raise FrameError("no END frame, or the last DATA frame says that more follows; expected OPEN, DATA, END")
    return Call(request, opened.pipeline, pieces)


def read(found: Frame, kind: type[_T]) -> _T:
    """The payload of an OPEN, END or ERROR frame. Raises FrameError."""
    try:
        return msgspec.msgpack.decode(found.payload, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"the payload of {found.kind.name} is not what it should be: {error}") from error
