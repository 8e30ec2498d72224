"""`/v1/completions` and `/v1/chat/completions`: which model is asked, and the engine's response as it is written.

The body is the engine's to understand, and the response the engine's to word: this module reads `model`, routes, and
sends on. A request is a stream of the worker with `path` and `body` (BYTES); its chunks are `status` (INT32) and `type`
(BYTES) once, then `body` (BYTES). No byte is sent before the first one of the body is here, so that an error before it
has a status of its own; a later one becomes a last event.
"""

import asyncio
from dataclasses import dataclass

import numpy as np

from podium.errors import ClientTooSlow, ModelError, RequestError
from podium.http.inference.call import Call
from podium.http.inference.openai_body import asked_model
from podium.http.inference.openai_errors import EVENT_END, error_event, failed_at_once, shaped
from podium.http.inference.streaming import abort
from podium.http.transport.asgi import Answer, respond
from podium.http.transport.body import BodyReader
from podium.http.transport.disconnect import DisconnectWatch
from podium.http.transport.errors import answer_for
from podium.http.transport.limits import Limits
from podium.http.transport.receiving import Receiving
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.streamed import ChunkedAnswer
from podium.serving.dispatch.streams import Outputs
from podium.serving.revisions.admission import Admission
from podium.serving.revisions.live import LiveRevision
from podium_crds.assignment import EngineKind, ResourceKind

GENERATING = frozenset({EngineKind.VLLM})
"""Engines that answer in this module's form."""
EVENTS = b"text/event-stream"
MAX_RESPONSE_BYTES = 64 << 20
"""Of a response that is not streamed."""
SEND_TIMEOUT_S = 15.0
"""How long a client may take nothing of a stream: then its connection is cut. Engines give up such a stream sooner."""


class NotGenerativeError(RequestError):
    """The model takes tensors."""


class OpenAIRoutes:
    """Serves the two routes."""

    def __init__(self, admission: Admission, limits: Limits, receiving: Receiving) -> None:
        self._admission = admission
        self._limits = limits
        self._receiving = receiving

    async def answer(self, call: Call) -> int:
        """Answers to the last byte. Returns the status that counts: of a stream that broke, that of its error.

        Raises PodiumError where nothing was sent yet.
        """
        raw = await self._body(call)
        revision = self._revision(call, asked_model(raw))
        with DisconnectWatch(call.receive):
            return await self._respond(call, revision, raw)

    async def _body(self, call: Call) -> bytes:
        body = BodyReader(call.fields, call.receive, self._limits, self._receiving)
        try:
            return b"".join(await body.read_all())
        finally:
            body.close()

    def _revision(self, call: Call, model: str) -> LiveRevision:
        name, _, version = model.partition("@")
        revision = self._admission.pin(call.admitted, name, version or None, ResourceKind.MODEL)
        if revision.spec.graph is not None or revision.spec.members[0].engine.kind not in GENERATING:
            raise NotGenerativeError(f"{name} takes tensors and generates no text; POST /v1/models/{name}:predict")
        return revision

    async def _respond(self, call: Call, revision: LiveRevision, raw: bytes) -> int:
        inputs = {"path": _bytes_tensor(call.scope["path"].encode()), "body": _bytes_tensor(raw)}
        deadline = call.admitted.deadline(None)
        async with revision.stream(inputs, call.request_id, deadline) as answer:
            head = await _begun(answer)
            if head.content_type.startswith(EVENTS):
                if (failed := failed_at_once(head.first)) is not None:
                    await respond(call.send, failed, call.headers())
                    return failed.status
                return await _send_events(call, head, answer)
            whole = shaped(await _whole(head, answer), call.request_id)
            await respond(call.send, whole, call.headers())
            return whole.status


@dataclass(frozen=True, slots=True)
class _Head:
    """How a response begins, and its first bytes."""

    status: int
    content_type: bytes
    first: bytes


async def _begun(answer: ChunkedAnswer) -> _Head:
    """Waits for the head and the first bytes of the body. Raises what ended the stream before, or ModelError."""
    chunks = await answer.read()
    try:
        status = int(chunks[0]["status"].array().reshape(-1)[0])
        content_type = _element(chunks[0]["type"])
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ModelError("the engine answered without status and type, which come first") from error
    if not 200 <= status <= 599 or any(byte < 0x20 or byte > 0x7E for byte in content_type):
        raise ModelError(f"the engine answered with status {status} or a type that no header takes")
    while not (first := _body(chunks)):
        if not (chunks := await answer.read()):
            break
    return _Head(status, content_type, first)


async def _whole(head: _Head, answer: ChunkedAnswer) -> Answer:
    pieces, size = [head.first], len(head.first)
    while chunks := await answer.read():
        pieces.append(_body(chunks))
        size += len(pieces[-1])
        if size > MAX_RESPONSE_BYTES:
            raise ModelError(f"the response has more than {MAX_RESPONSE_BYTES} bytes; ask for it with stream: true")
    return Answer(head.status, b"".join(pieces), head.content_type)


async def _send_events(call: Call, head: _Head, answer: ChunkedAnswer) -> int:
    headers = [(b"content-type", head.content_type), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    await call.send({"type": "http.response.start", "status": head.status, "headers": [*headers, *call.headers()]})
    try:
        return await _events(call, head, answer)
    except TimeoutError:
        abort(call.scope)
        return answer_for(ClientTooSlow(f"the client read nothing for {SEND_TIMEOUT_S:g} s")).status


async def _events(call: Call, head: _Head, answer: ChunkedAnswer) -> int:
    """The body to its end. Raises TimeoutError where the client takes nothing."""
    status, last, event = head.status, head.first, b""
    try:
        await _push(call, last)
        while chunks := await answer.read():
            last = _body(chunks)
            await _push(call, last)
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - the status is out: whatever it is, the client is told in an event
        failed = answer_for(error)
        status = failed.status
        # An event that was cut in two must end before the next one begins.
        event = (b"" if last.endswith(EVENT_END) else EVENT_END) + error_event(failed, call.request_id)
    await _push(call, event, more=False)
    return status


async def _push(call: Call, body: bytes, *, more: bool = True) -> None:
    """Sends a part of the body. Raises TimeoutError where the client takes nothing."""
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await call.send({"type": "http.response.body", "body": body, "more_body": more})


def _body(chunks: list[Outputs]) -> bytes:
    """The part of the response that came with these chunks: those that came while the socket lagged leave together."""
    return b"".join(_element(body) for chunk in chunks if (body := chunk.get("body")) is not None)


def _bytes_tensor(value: bytes) -> Tensor:
    array = np.empty(1, dtype=object)
    array[0] = value
    return Tensor.from_array(array)


def _element(tensor: Tensor) -> bytes:
    """The first element of a BYTES tensor, whose layout was checked as it came in."""
    value = tensor.array().reshape(-1)[0]
    if not isinstance(value, bytes):
        raise TypeError("expected BYTES")
    return value
