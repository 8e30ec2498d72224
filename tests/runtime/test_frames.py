"""Frames of `/rpc`: what one side writes the other reads, and nothing else is taken."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.frames import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    MORE,
    Broken,
    End,
    FrameError,
    FrameKind,
    Open,
    call_of,
    frame,
    frames_of,
    message,
    read,
    structured,
)

OPEN = structured(FrameKind.OPEN, 7, Open("echo"))
DATA = message(7, b"abc")
END = structured(FrameKind.END, 7, End())


def header(**changes: int) -> bytes:
    """A DATA frame of three bytes, some fields of its header other than they should be."""
    fields = {"magic": 0x4E56, "version": 1, "kind": 2, "flags": 0, "reserved": 0, "request": 7, "stream": 1, "size": 3}
    fields |= {"checksum": zlib.crc32(b"abc"), "extension": 0, **changes}
    packed = struct.pack(
        "!HBBBxBBQIIII",
        *(fields[name] for name in ("magic", "version", "kind", "flags")),
        0,
        *(fields[name] for name in ("reserved", "request", "stream", "size", "checksum", "extension")),
    )
    return packed + b"abc"


def test_the_header_is_32_bytes_big_endian() -> None:
    made = frame(FrameKind.DATA, 0x0102030405060708, b"abc")
    assert made[:HEADER_BYTES].hex() == "4e5601020000000001020304050607080000000100000003352441c200000000"


@given(st.binary(max_size=3 * 1024), st.integers(0, 2**64 - 1))
def test_what_is_written_is_read(payload: bytes, number: int) -> None:
    opened = structured(FrameKind.OPEN, number, Open("echo"))
    ended = structured(FrameKind.END, number, End())
    call = call_of(frames_of(memoryview(opened + message(number, payload) + ended)))
    assert (call.request, call.pipeline, b"".join(call.payload)) == (number, "echo", payload)


def test_a_long_message_takes_several_frames() -> None:
    payload = bytes(range(256)) * (MAX_PAYLOAD_BYTES // 256) + b"tail"
    found = list(frames_of(memoryview(message(7, payload))))
    assert [one.more for one in found] == [True, False]
    assert b"".join(call_of(frames_of(memoryview(OPEN + message(7, payload) + END))).payload) == payload


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"magic": 0x564E}, "expected 0x4e56"),
        ({"version": 2}, "version 2"),
        ({"kind": 9}, "type 9"),
        ({"flags": 0x82}, "flags 0x82"),
        ({"reserved": 1}, "reserved"),
        ({"stream": 2}, "stream 2"),
        ({"size": MAX_PAYLOAD_BYTES + 1}, "at most 4194304"),
        ({"size": 4}, "ends within a frame"),
        ({"checksum": 5}, "checksum"),
        ({"extension": 1}, "extension"),
    ],
)
def test_a_wrong_header_is_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(FrameError, match=said):
        list(frames_of(memoryview(header(**changes))))
    assert len(list(frames_of(memoryview(header())))) == 1
    assert len(list(frames_of(memoryview(header(checksum=0))))) == 1, "no checksum is given: none is checked"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no frame"),
        (DATA + END, "first frame is DATA"),
        (OPEN + OPEN + DATA + END, "a second OPEN"),
        (OPEN + END, "no DATA"),
        (OPEN + DATA, "no END"),
        (OPEN + DATA + END + END, "END after END"),
        (OPEN + DATA + END + DATA, "DATA after END"),
        (OPEN + frame(FrameKind.DATA, 7, b"a", more=True) + END, "more follows"),
        (OPEN + message(8, b"abc") + END, "request 8"),
        (OPEN + structured(FrameKind.ERROR, 7, Broken(0, "", retryable=False)) + END, "a second ERROR"),
        (frame(FrameKind.OPEN, 7, b"\xc1") + DATA + END, "payload of OPEN"),
        (OPEN + DATA + END[:-1], "ends within a frame"),
    ],
)
def test_frames_out_of_order_are_refused(body: bytes, said: str) -> None:
    with pytest.raises(FrameError, match=said):
        call_of(frames_of(memoryview(body)))


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    try:
        for found in frames_of(memoryview(data)):
            read(found, End)
    except FrameError:
        pass


def test_heartbeats_mean_nothing() -> None:
    beat = frame(FrameKind.HEARTBEAT, 7)
    assert call_of(frames_of(memoryview(OPEN + beat + DATA + beat + END))).pipeline == "echo"
    assert MORE == 1
