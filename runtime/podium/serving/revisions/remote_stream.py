"""`RemoteStream`: chunks of a model of another pod, in the frames of `/rpc`, read as their reader asks for more.

A task reads the connection and pauses while more than a window is unread: then the other pod's generator pauses, too.
Closing the stream closes the connection, which ends the generator there. Whether a model streams is known once it is
asked: one that does not is asked for its answer at once, which is the one chunk.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil, prod

import httpx
import msgspec

from podium.errors import DeadlineExceeded, InvalidInput, PodiumError, RemoteFailed, RemoteUnavailable
from podium.frames import (
    Broken,
    End,
    Frame,
    FrameBuffer,
    FrameError,
    FrameKind,
    RpcCode,
    call_bytes,
    read,
)
from podium.ipc.protocol import MAX_CHUNK_BYTES, STREAM_WINDOW_BYTES
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.streams import Outputs
from podium.serving.revisions.named_tensors import binary_tensor, text_tensor
from podium.serving.revisions.remote_errors import lost_connections, retry_after_s
from podium_crds.tensors import DType

MAX_MESSAGE_BYTES = 2 * MAX_CHUNK_BYTES
"""Of one chunk with what names it."""
NUMBER = 1
"""What the frames of a call carry: each has a connection of its own."""


class _Item(msgspec.Struct):
    dtype: DType
    shape: list[int]
    data: bytes | list[bytes]


class _Told(msgspec.Struct):
    outputs: dict[str, _Item]


_DECODER = msgspec.msgpack.Decoder(_Told)


def request_body(model: str, inputs: Mapping[str, Tensor], timeout_s: float, priority: int = 0) -> bytes:
    """The frames of a call, its tensors copied."""
    named = {
        name: {"dtype": tensor.dtype.value, "shape": list(tensor.shape), "data": tensor.data}
        for name, tensor in inputs.items()
    }
    asked: dict[str, object] = {"inputs": named, "timeout_ms": max(1, ceil(timeout_s * 1000))}
    if priority:
        asked["priority"] = priority
    return call_bytes(NUMBER, model, msgspec.msgpack.encode(asked))


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """One call as it is sent, and what is made of the answers."""

    client: httpx.AsyncClient
    url: str
    headers: Mapping[str, str]
    body: bytes
    named: str
    """The model and where it is, for messages."""
    deadline: float
    """On the event loop's clock."""
    refusal: Callable[[int, str, float], PodiumError]
    """(status, message, seconds to wait) → the error."""
    check: Callable[[Outputs], Outputs]
    """Raises RemoteFailed for what the contract does not have."""
    at_once: Callable[[], Awaitable[Outputs]]
    """The whole answer, of a model that does not stream."""


class RemoteStream:
    """The chunks of one call. One reader; `close` it in the end."""

    def __init__(self, call: RemoteCall, inputs: Mapping[str, Tensor], tasks: set[asyncio.Task[None]]) -> None:
        """Begins at once. `tasks` keeps what still closes its connection."""
        self._call = call
        self._inputs = [tensor.retain() for tensor in inputs.values()]
        self._chunks: deque[Outputs] = deque()
        self._unread = 0
        self._leased: list[Outputs] = []
        """Delivered to the reader, who is done with them when it reads on."""
        self._room, self._news = asyncio.Event(), asyncio.Event()
        self._room.set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"stream of {call.named}")
        tasks.add(self._task)
        self._task.add_done_callback(tasks.discard)
        self._task.add_done_callback(self._told)

    async def read(self) -> list[Outputs]:
        """As ChunkedAnswer. Raises RemoteUnavailable, RemoteFailed, DeadlineExceeded, InvalidInput."""
        self._release()
        while not self._chunks and not self._task.done():
            self._news.clear()
            await self._news.wait()
        if not self._chunks:
            self._task.result()
            return []
        self._leased = list(self._chunks)
        self._chunks.clear()
        self._unread = 0
        self._room.set()
        return list(self._leased)

    def close(self) -> None:
        """As ChunkedAnswer."""
        self._task.cancel()
        self._leased += self._chunks
        self._chunks.clear()
        self._release()

    def _release(self) -> None:
        while self._leased:
            for tensor in self._leased.pop().values():
                tensor.release()

    def _let_go(self) -> None:
        while self._inputs:
            self._inputs.pop().release()

    def _told(self, task: asyncio.Task[None]) -> None:
        """The task's error is its reader's, if there still is one."""
        self._let_go()
        if not task.cancelled():
            task.exception()
        self._news.set()

    def _give(self, outputs: Outputs) -> None:
        self._chunks.append(outputs)
        self._unread += sum([tensor.nbytes for tensor in outputs.values()])
        if self._unread > STREAM_WINDOW_BYTES:
            self._room.clear()
        self._news.set()

    async def _run(self) -> None:
        call = self._call
        try:
            with lost_connections(call.named):
                async with asyncio.timeout_at(call.deadline):
                    if not await self._streamed():
                        self._give(await call.at_once())
        except TimeoutError as error:
            raise DeadlineExceeded(f"the deadline passed while {call.named} answered") from error
        except FrameError as error:
            raise RemoteFailed(f"{call.named} gave an answer that is not made of frames: {error}") from error

    async def _streamed(self) -> bool:
        """Reads the answer to its end. False where the model does not stream."""
        call = self._call
        async with call.client.stream("POST", call.url, content=call.body, headers=dict(call.headers)) as response:
            if response.status_code == httpx.codes.NOT_ACCEPTABLE:
                return False
            self._let_go()
            await self._read_frames(response.status_code, response.aiter_raw(), retry_after_s(response))
        return True

    async def _read_frames(self, status: int, pieces: AsyncIterator[bytes], wait_s: float) -> None:
        call, payload, count = self._call, bytearray(), 0
        async for frame in frames_in(pieces):
            if frame.kind is FrameKind.ERROR:
                broken = read(frame, Broken)
                raise call.refusal(_status(broken, status), broken.message, wait_s)
            if frame.kind is FrameKind.END:
                if (told := read(frame, End).chunks) != count:
                    raise RemoteFailed(f"{call.named} sent {told} chunks, and {count} came")
                return
            if frame.kind is not FrameKind.DATA:
                continue
            payload += frame.payload
            if len(payload) > MAX_MESSAGE_BYTES:
                raise RemoteFailed(f"{call.named} sent a chunk of more than {MAX_MESSAGE_BYTES} bytes")
            if not frame.more:
                count += 1
                self._give(call.check(self._parsed(bytes(payload))))
                payload.clear()
                await self._room.wait()
        if status != httpx.codes.OK:
            raise call.refusal(status, "an error without a word", wait_s)
        raise RemoteUnavailable(f"{call.named} ended its answer before its end", sent=True)

    def _parsed(self, payload: bytes) -> Outputs:
        try:
            told = _DECODER.decode(payload)
            return {name: _tensor(item) for name, item in told.outputs.items()}
        except (msgspec.MsgspecError, InvalidInput, RecursionError) as error:
            raise RemoteFailed(f"{self._call.named} gave a chunk that is not one: {error}") from error


async def frames_in(pieces: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """Frames as they come in. Raises FrameError."""
    buffer = FrameBuffer()
    async for piece in pieces:
        for frame in buffer.feed(piece):
            yield frame
    buffer.finish()


def _tensor(item: _Item) -> Tensor:
    shape = tuple(item.shape)
    if isinstance(item.data, bytes):
        return binary_tensor(item.dtype, shape, memoryview(item.data))
    if item.dtype is not DType.BYTES or len(item.data) != prod(shape):
        raise InvalidInput(f"{len(item.data)} elements for {item.dtype} of shape {item.shape}")
    return text_tensor(item.data, shape)


def _status(broken: Broken, status: int) -> int:
    """Of an answer that had begun well: the status that its error would have had."""
    if status != httpx.codes.OK:
        return status
    match broken.code:
        case RpcCode.DEADLINE_EXCEEDED:
            return 504
        case RpcCode.RESOURCE_EXHAUSTED | RpcCode.UNAVAILABLE:
            return 503
        case RpcCode.INVALID_ARGUMENT:
            return 422
        case _:
            return 500
