"""Models of other pods as steps call them: the Open Inference Protocol in binary over kept connections.

Deadline, priority, request id and trace go along. A model that this process serves itself is asked without the network.
Nothing is asked twice here: whether a step may run again is the executor's to say.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import quote
from uuid import uuid4

import httpx

from podium.errors import (
    DeadlineExceeded,
    InvalidInput,
    PodiumError,
    QueueFull,
    RemoteFailed,
    RemoteUnavailable,
    StreamsFull,
    clipped,
)
from podium.frames import MEDIA_TYPE
from podium.ipc.arena import Arena
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.streamed import ChunkedAnswer, StreamedAnswer
from podium.serving.dispatch.streams import Outputs
from podium.serving.revisions.contract import Contract, described, disagreement
from podium.serving.revisions.oip_call import HEADER_LENGTH, AnswerReader, body_of, head_of
from podium.serving.revisions.remote_errors import lost_connections, retry_after_s
from podium.serving.revisions.remote_stream import RemoteCall, RemoteStream, request_body
from podium.telemetry.counting import StreamCounts
from podium.telemetry.outgoing import TRACE
from podium_crds.assignment import Member
from podium_crds.keys import HEADER_REQUEST_ID

MAX_CONNECTIONS = 128
"""Of all remote models together; a call waits for one until its deadline."""
KEPT_CONNECTIONS = 64
KEPT_S = 30.0
CONNECT_TIMEOUT_S = 2.0
MAX_STREAMS = 128
"""Of all remote models together, each with a connection of its own."""
STREAMED = {"content-type": MEDIA_TYPE, "podium-stream": "1"}
OWN_ID = "x-nerva-request-id"
"""What a call is cancelled by: one at a time, and clients may give two calls one request id."""
MAX_CALLS = 512
"""Of one model at once: as many wait for a connection at most."""
MAX_ERROR_BYTES = 64 << 10
MAX_MESSAGE_CHARS = 500


class Here(Protocol):
    """A model that this process serves itself."""

    def enter(self) -> None:
        """A request has pinned it."""

    def leave(self) -> None:
        """That request has been answered."""

    async def infer(
        self, inputs: Mapping[str, Tensor], request_id: str, deadline: float, priority: int = 0
    ) -> dict[str, Tensor]:
        """Outputs leased to the caller."""

    @property
    def streams(self) -> bool:
        """Whether it answers in chunks."""

    def stream(self, inputs: Mapping[str, Tensor], request_id: str, deadline: float) -> ChunkedAnswer:
        """An answer in chunks; the reader closes it."""


class Remotes:
    """The connections of this process to models of other pods. Used from one event loop; `close` it in the end."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.find_here: Callable[[str], Here | None] = _nowhere
        """The model of that name if it is served here. Raises NotReadyError where it is, and cannot answer yet."""
        self._client: httpx.AsyncClient | None = None
        self._streaming: httpx.AsyncClient | None = None
        self.streams: set[asyncio.Task[None]] = set()
        """Those that are open, and those that still close their connections."""

    @property
    def client(self) -> httpx.AsyncClient:
        """Made at the first call: most pods call nobody."""
        if self._client is None:
            limits = httpx.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=KEPT_CONNECTIONS,
                keepalive_expiry=KEPT_S,
            )
            timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)  # the rest is the deadline's
            self._client = httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)
        return self._client

    @property
    def streaming(self) -> httpx.AsyncClient:
        """For streams, which would keep calls from their connections. Made at the first one."""
        if self._streaming is None:
            limits = httpx.Limits(max_connections=MAX_STREAMS, max_keepalive_connections=KEPT_CONNECTIONS)
            timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
            self._streaming = httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)
        return self._streaming

    async def close(self) -> None:
        """Ends the streams and closes the connections."""
        for task in self.streams:
            task.cancel()
        if self.streams:
            await asyncio.wait(self.streams)
        clients, self._client, self._streaming = (self._client, self._streaming), None, None
        for client in clients:
            if client is not None:
                await client.aclose()


class RemoteGroup:
    """One member whose model other pods serve."""

    def __init__(self, member: Member, remotes: Remotes) -> None:
        assert member.remote is not None, "a member in other pods"
        self._remotes = remotes
        self._model = member.remote.model
        self._base = member.remote.url.rstrip("/")
        self._url = f"{self._base}/v2/models/{quote(self._model, safe='')}/infer"
        self._contract = Contract.of_member(member)
        self._calls = 0
        self._clock = asyncio.get_running_loop().time

    @property
    def streams(self) -> bool:
        """Of a model that is served here this is known; one of other pods may, and is asked."""
        here = self._here()
        return here is None or here.streams

    @property
    def surely_streams(self) -> bool:
        """See Callee."""
        here = self._here()
        return here is not None and here.streams

    def stream(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float, counts: StreamCounts
    ) -> StreamedAnswer:
        """As Callee. Raises StreamsFull, DeadlineExceeded."""
        here = self._remotes.find_here(self._model)
        if here is not None:
            return StreamedAnswer(_FromHere(here, inputs, request_id, deadline), counts)
        left_s = deadline - self._clock()
        if left_s <= 0:
            raise DeadlineExceeded(f"the deadline had passed before {self._named} was asked")
        if len(self._remotes.streams) >= MAX_STREAMS:
            raise StreamsFull(f"{MAX_STREAMS} streams of models of other pods are open", 1.0)
        kept = dict(inputs)
        call = RemoteCall(
            self._remotes.streaming,
            f"{self._base}/rpc/{quote(self._model, safe='')}",
            {**_traced(request_id), **STREAMED, OWN_ID: uuid4().hex},
            request_body(self._model, inputs, left_s),
            self._named,
            deadline,
            self._refused,
            self._checked,
            lambda: self.infer(kept, request_id=request_id, deadline=deadline),
        )
        return StreamedAnswer(RemoteStream(call, inputs, self._remotes.streams), counts)

    def _here(self) -> Here | None:
        try:
            return self._remotes.find_here(self._model)
        except PodiumError:
            return None  # whoever calls it is told

    async def infer(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float, priority: int = 0
    ) -> dict[str, Tensor]:
        """As Callee. Raises RemoteUnavailable, RemoteFailed, DeadlineExceeded, InvalidInput, QueueFull,
        ArenaExhausted; of a model that is served here, what it raises."""
        here = self._remotes.find_here(self._model)
        if here is not None:
            here.enter()
            try:
                return await here.infer(inputs, request_id, deadline, priority)
            finally:
                here.leave()
        if self._calls >= MAX_CALLS:
            raise QueueFull(f"{MAX_CALLS} calls of {self._named} are under way", 1.0)
        self._calls += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await self._call(inputs, request_id, deadline, priority)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the deadline passed while {self._named} was asked") from error
        finally:
            self._calls -= 1

    @property
    def _named(self) -> str:
        return f"model {self._model} at {self._url}"

    async def _call(
        self, inputs: Mapping[str, Tensor], request_id: str, deadline: float, priority: int
    ) -> dict[str, Tensor]:
        left_us = int((deadline - self._clock()) * 1e6)
        if left_us <= 0:
            raise DeadlineExceeded(f"the deadline had passed before {self._named} was asked")
        head = head_of(inputs, left_us, priority)
        headers = _headers(head, inputs, request_id)
        sent = self._remotes.client.stream("POST", self._url, content=body_of(head, inputs), headers=headers)
        with lost_connections(self._named):
            async with sent as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                return self._checked(await self._read(response))

    async def _read(self, response: httpx.Response) -> dict[str, Tensor]:
        length = response.headers.get(HEADER_LENGTH, "")
        if not length.isdigit() or len(length) > 9:
            raise RemoteFailed(f"{self._named} gave no answer of the Open Inference Protocol in binary")
        try:
            reader = AnswerReader(self._remotes.arena, int(length))
        except RemoteFailed as error:
            raise RemoteFailed(f"{self._named}: {error}") from error
        try:
            async for chunk in response.aiter_raw():
                reader.feed(chunk)
            return reader.finish()
        except RemoteFailed as error:
            raise RemoteFailed(f"{self._named}: {error}") from error
        finally:
            reader.close()

    def _checked(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs that are as the member declares them. Raises RemoteFailed."""
        for name, tensor in outputs.items():
            spec = self._contract.outputs.get(name)
            if spec is not None and (found := disagreement(spec, tensor)) is not None:
                for other in outputs.values():
                    other.release()
                raise RemoteFailed(f"{self._named} gave output {name!r} with {found}; expected {described(spec)}")
        return outputs

    async def _refusal(self, response: httpx.Response) -> PodiumError:
        return self._refused(response.status_code, await _message(response), retry_after_s(response))

    def _refused(self, status: int, message: str, wait_s: float) -> PodiumError:
        told = f"{self._named} answered {status}: {clipped(message, MAX_MESSAGE_CHARS)}"
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            return RemoteUnavailable(told, wait_s, sent=True)
        if status == httpx.codes.GATEWAY_TIMEOUT:
            return DeadlineExceeded(told)
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
            return InvalidInput(told)
        return RemoteFailed(told)


def _headers(head: bytes, inputs: Mapping[str, Tensor], request_id: str) -> dict[str, str]:
    length = len(head) + sum(tensor.nbytes for tensor in inputs.values())
    return {
        "content-type": "application/octet-stream",
        "content-length": str(length),
        HEADER_LENGTH: str(len(head)),
        **_traced(request_id),
    }


def _traced(request_id: str) -> dict[str, str]:
    """What every call carries of the request that it is made for."""
    headers = {"accept-encoding": "identity", HEADER_REQUEST_ID: request_id}
    if (trace := TRACE.get()) is not None:
        headers["traceparent"] = trace.traceparent.decode()
        if trace.state is not None:
            headers["tracestate"] = trace.state.decode("latin-1")
    return headers


class _FromHere:
    """Chunks of a model that this process serves itself, pinned until they end."""

    def __init__(self, here: Here, inputs: Mapping[str, Tensor], request_id: str, deadline: float) -> None:
        """Raises as Here.stream."""
        here.enter()
        self._here: Here | None = here
        try:
            self._answer = here.stream(inputs, request_id, deadline)
        except BaseException:
            here.leave()
            raise

    async def read(self) -> list[Outputs]:
        """As ChunkedAnswer."""
        return await self._answer.read()

    def close(self) -> None:
        """As ChunkedAnswer."""
        here, self._here = self._here, None
        if here is not None:
            self._answer.close()
            here.leave()


async def _message(response: httpx.Response) -> str:
    """What an error says."""
    raw = bytearray()
    async for chunk in response.aiter_raw():
        raw += chunk
        if len(raw) > MAX_ERROR_BYTES:
            break
    try:
        told = httpx.Response(200, content=bytes(raw)).json()["error"]
        text = told if isinstance(told, str) else str(told["message"])
    except (ValueError, KeyError, TypeError):
        text = raw.decode("utf-8", "replace")
    return text


def _nowhere(_model: str) -> None:
    """Of a process that serves no model."""
