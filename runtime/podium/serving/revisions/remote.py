"""Models of other pods as steps call them: the Open Inference Protocol in binary over kept connections.

Deadline, priority, request id and trace go along. A model that this process serves itself is asked without the network.
Nothing is asked twice here: whether a step may run again is the executor's to say.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import quote

import httpx

from podium.errors import (
    DeadlineExceeded,
    InvalidInput,
    PodiumError,
    QueueFull,
    RemoteFailed,
    RemoteUnavailable,
)
from podium.ipc.arena import Arena
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract, described, disagreement
from podium.serving.revisions.oip_call import HEADER_LENGTH, AnswerReader, body_of, head_of
from podium.telemetry.outgoing import TRACE
from podium_crds.assignment import Member
from podium_crds.keys import HEADER_REQUEST_ID

MAX_CONNECTIONS = 128
"""Of all remote models together; a call waits for one until its deadline."""
KEPT_CONNECTIONS = 64
KEPT_S = 30.0
CONNECT_TIMEOUT_S = 2.0
MAX_CALLS = 512
"""Of one model at once: as many wait for a connection at most."""
MAX_ERROR_BYTES = 64 << 10
MAX_RETRY_AFTER_S = 60.0
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


class Remotes:
    """The connections of this process to models of other pods. Used from one event loop; `close` it in the end."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.find_here: Callable[[str], Here | None] = _nowhere
        """The model of that name if it is served here. Raises NotReadyError where it is, and cannot answer yet."""
        self._client: httpx.AsyncClient | None = None

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

    async def close(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class RemoteGroup:
    """One member whose model other pods serve."""

    def __init__(self, member: Member, remotes: Remotes) -> None:
        assert member.remote is not None, "a member in other pods"
        self._remotes = remotes
        self._model = member.remote.model
        self._url = f"{member.remote.url.rstrip('/')}/v2/models/{quote(self._model, safe='')}/infer"
        self._contract = Contract.of_member(member)
        self._calls = 0
        self._clock = asyncio.get_running_loop().time

    @property
    def streams(self) -> bool:
        """No: streams stay within a pod."""
        return False

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
        try:
            sent = self._remotes.client.stream("POST", self._url, content=body_of(head, inputs), headers=headers)
            async with sent as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                return self._checked(await self._read(response))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise RemoteUnavailable(f"{self._named} cannot be reached: {_reason(error)}", sent=False) from error
        except httpx.HTTPError as error:
            raise RemoteUnavailable(f"{self._named} broke the connection: {_reason(error)}", sent=True) from error

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
        status, message = response.status_code, await _message(response)
        told = f"{self._named} answered {status}: {message}"
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            return RemoteUnavailable(told, _retry_after(response), sent=True)
        if status == httpx.codes.GATEWAY_TIMEOUT:
            return DeadlineExceeded(told)
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
            return InvalidInput(told)
        return RemoteFailed(told)


def _headers(head: bytes, inputs: Mapping[str, Tensor], request_id: str) -> dict[str, str]:
    length = len(head) + sum(tensor.nbytes for tensor in inputs.values())
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(length),
        "accept-encoding": "identity",
        HEADER_LENGTH: str(len(head)),
        HEADER_REQUEST_ID: request_id,
    }
    if (trace := TRACE.get()) is not None:
        headers["traceparent"] = trace.traceparent.decode()
        if trace.state is not None:
            headers["tracestate"] = trace.state.decode("latin-1")
    return headers


async def _message(response: httpx.Response) -> str:
    """What an error says, as far as it is kept."""
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
    return text[:MAX_MESSAGE_CHARS]


def _retry_after(response: httpx.Response) -> float:
    given = response.headers.get("retry-after", "")
    return min(MAX_RETRY_AFTER_S, float(given)) if given.isdigit() else 1.0


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _nowhere(_model: str) -> None:
    """Of a process that serves no model."""
