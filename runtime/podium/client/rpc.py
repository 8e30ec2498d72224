"""`RpcClient`: calls in binary frames, answered at once or in chunks. Needs httpx, numpy and msgspec.

Arrays travel as raw little-endian bytes: no text is made of a number. The frames are described in docs/rpc.md.
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from podium.client.connection import ClientError, Connection
from podium.client.sync import OIP_NAMES
from podium.frames import (
    MEDIA_TYPE,
    Broken,
    End,
    Frame,
    FrameBuffer,
    FrameError,
    FrameKind,
    call_bytes,
    read,
)

Arrays = dict[str, NDArray[Any]]
MAX_MESSAGE_BYTES = 256 << 20
"""Of one message of an answer: more is not kept."""
NUMPY_NAMES = {name: np.dtype(numpy_name).newbyteorder("<") for numpy_name, name in OIP_NAMES.items()}


class RpcClient(Connection):
    """Calls models and pipelines at one address. Not retried: what to do about a 503 is the caller's choice."""

    def __init__(self, base_url: str, *, timeout_s: float = 60.0, api_key: str | None = None) -> None:
        super().__init__(base_url, timeout_s=timeout_s, api_key=api_key)
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)

    def call(self, name: str, inputs: Mapping[str, Any], *, request_id: str | None = None) -> Arrays:
        """The outputs of a model or a pipeline. Raises ClientError."""
        return next(iter(self._messages(name, inputs, "0", request_id)))

    def stream(self, name: str, inputs: Mapping[str, Any], *, request_id: str | None = None) -> Iterator[Arrays]:
        """An answer in chunks, as they come. Leaving the loop ends the stream.

        Raises ClientError, also in the middle: chunks before it are real, and the answer is not complete.
        """
        return self._messages(name, inputs, "1", request_id)

    def cancel(self, request_id: str) -> bool:
        """Cancels the call that was given this id; False where none is under way."""
        response = self._http.post(f"/rpc/{quote(request_id, safe='')}/cancel")
        return response.is_success

    def _messages(self, name: str, inputs: Mapping[str, Any], mode: str, request_id: str | None) -> Iterator[Arrays]:
        headers = {
            "content-type": MEDIA_TYPE,
            "podium-stream": mode,
            "podium-deadline-ms": str(int((time.time() + self._timeout_s) * 1000)),
            "x-request-id": request_id or uuid4().hex,
        }
        body = _request(next(self._numbers), name, inputs)
        try:
            with self._http.stream("POST", f"/rpc/{quote(name, safe='')}", content=body, headers=headers) as response:
                yield from _answers(_frames(response.iter_raw()), response.status_code)
        except httpx.HTTPError as error:
            raise ClientError(f"the call of {self._http.base_url} broke: {error or type(error).__name__}") from error
        except FrameError as error:
            raise ClientError(f"the answer is not made of frames: {error}", response.status_code) from error


def _request(number: int, name: str, inputs: Mapping[str, Any]) -> bytes:
    payload = msgspec.msgpack.encode({"inputs": {key: _tensor(value) for key, value in inputs.items()}})
    return call_bytes(number, name, payload)


def _answers(frames: Iterator[Frame], status: int) -> Iterator[Arrays]:
    """Every message up to END. Raises ClientError for ERROR, and where neither came."""
    pieces, count = bytearray(), 0
    for found in frames:
        if found.kind is FrameKind.DATA:
            pieces += found.payload
            if len(pieces) > MAX_MESSAGE_BYTES:
                raise ClientError(f"an answer of more than {MAX_MESSAGE_BYTES} bytes", status)
            if not found.more:
                count += 1
                yield _outputs(bytes(pieces))
                pieces = bytearray()
        elif found.kind is FrameKind.ERROR:
            broken = read(found, Broken)
            raise ClientError(f"{status} {broken.message}", status, broken.reason)
        elif found.kind is FrameKind.END:
            if (told := read(found, End).chunks) != count:
                raise ClientError(f"{count} messages came, {told} were sent: the answer is not complete", status)
            return
    raise ClientError("the answer ended before its END frame: it is not complete", status)


def _frames(chunks: Iterator[bytes]) -> Iterator[Frame]:
    """Frames as they come in. Raises FrameError."""
    buffer = FrameBuffer()
    for chunk in chunks:
        yield from buffer.feed(chunk)
    buffer.finish()


def _tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    name = OIP_NAMES.get(str(value.dtype), "BYTES")
    data: Any = value.tolist()
    if name != "BYTES":
        data = np.ascontiguousarray(value, NUMPY_NAMES[name]).tobytes()
    return {"dtype": name, "shape": list(value.shape), "data": data}


def _outputs(payload: bytes) -> Arrays:
    told = msgspec.msgpack.decode(payload)
    return {name: _array(item) for name, item in told["outputs"].items()}


def _array(item: Mapping[str, Any]) -> NDArray[Any]:
    if item["dtype"] == "BYTES":
        return np.array(item["data"], dtype=object).reshape(item["shape"])
    return np.frombuffer(item["data"], NUMPY_NAMES[item["dtype"]]).reshape(item["shape"])
