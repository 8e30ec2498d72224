"""Answers in chunks as server-sent events: `:stream`, `:predict` with `Accept: text/event-stream`, `generate_stream`.

The first chunk is waited for before anything is sent, so that an error before it has a status of its own; a later one
becomes a last event. Chunks that came while the socket lagged leave in one write. A client that leaves, or that reads
nothing until the time is up, closes the model's generator.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson

from podium.errors import DeadlineExceeded
from podium.http.forms.document import Tensors
from podium.http.forms.wishes import NamedRequest, chosen
from podium.http.inference.routes import RouteForm
from podium.http.transport.asgi import ABORT, DUMP_OPTIONS, Fields, Headers, Receive, Scope, Send
from podium.http.transport.disconnect import DisconnectWatch
from podium.http.transport.errors import ErrorAnswer, answer_for
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.streamed import ChunkedAnswer
from podium.serving.dispatch.streams import Outputs
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.named_tensors import outputs_to_json, to_json

EVENTS = b"text/event-stream"
KEEP_ALIVE_S = 15.0
"""Without a chunk for so long a comment is sent: proxies close what says nothing for a minute."""
KEEP_ALIVE = b": keep-alive\n\n"
SEND_GRACE_S = 1.0
"""Beyond the deadline: then a client that reads nothing has its connection cut."""


@dataclass(frozen=True, slots=True)
class StreamCall:
    """One request under way."""

    scope: Scope
    receive: Receive
    send: Send
    deadline: float
    """Of the whole stream, on the event loop's clock."""
    request_id: str
    headers: Callable[[], Headers]
    """What every answer carries, as known at the time."""


class EventForm(Protocol):
    """How one route writes its events."""

    @property
    def content_type(self) -> bytes:
        """Of the whole answer."""

    @property
    def keep_alive(self) -> bytes:
        """Says that the stream still lives."""

    def chunk(self, outputs: Outputs) -> bytes:
        """One event."""

    def end(self, chunks: int, /) -> bytes:
        """The last event of a stream that is complete, if there is one."""

    def error(self, error: ErrorAnswer, request_id: str) -> bytes:
        """The last event of a stream that broke."""


@dataclass(frozen=True, slots=True)
class NamedEvents:
    """`data: {"outputs": {…}}`, at the end `event: end` or `event: error`."""

    wanted: tuple[str, ...] | None
    content_type: bytes = EVENTS
    keep_alive: bytes = KEEP_ALIVE

    def chunk(self, outputs: Outputs) -> bytes:
        """Named tensors, as `:predict` has them."""
        return _event({"outputs": outputs_to_json(chosen(outputs, self.wanted))})

    def end(self, chunks: int) -> bytes:
        """How many chunks there were: who counted fewer has lost some."""
        return b"event: end\n" + _event({"chunks": chunks})

    def error(self, error: ErrorAnswer, request_id: str) -> bytes:
        """The one error body."""
        facts = {"code": error.code, "message": error.message, "retryable": error.retryable, "request_id": request_id}
        return b"event: error\n" + _event({"error": facts})


@dataclass(frozen=True, slots=True)
class GenerateEvents:
    """Triton's generate extension: outputs at the top level, single elements as scalars."""

    model: str
    version: str
    content_type: bytes = EVENTS
    keep_alive: bytes = KEEP_ALIVE

    def chunk(self, outputs: Outputs) -> bytes:
        """`{"model_name", "model_version", "<output>": value}`."""
        values = {name: _plain(tensor) for name, tensor in outputs.items()}
        return _event({"model_name": self.model, "model_version": self.version, **values})

    def end(self, _chunks: int) -> bytes:
        """Nothing: the response just ends."""
        return b""

    def error(self, error: ErrorAnswer, request_id: str) -> bytes:
        """`{"error": "…"}`, with the facts of every error beside."""
        facts = {"code": error.code, "retryable": error.retryable, "request_id": request_id}
        return _event({"error": error.message, **facts})


def wants_events(fields: Fields) -> bool:
    """Whether the client asks for a stream where an answer at once is possible, too."""
    accepted = fields.get(b"accept", b"").lower()
    return any(part.split(b";")[0].strip() == EVENTS for part in accepted.split(b","))


async def answer_stream(call: StreamCall, revision: LiveRevision, inputs: Tensors, events: EventForm) -> int:
    """Answers to the last byte. Returns the status that counts: of a stream that broke, that of its error.

    `inputs` are borrowed until it has returned. Raises PodiumError where nothing was sent yet, ClientGoneError.
    """
    deadline = call.deadline
    try:
        with DisconnectWatch(call.receive):
            async with revision.stream(inputs, call.request_id, deadline) as answer:
                first = await answer.read()
                async with asyncio.timeout_at(deadline + SEND_GRACE_S):
                    return await _send(call, answer, first, events)
    except TimeoutError:
        abort(call.scope)
        return answer_for(DeadlineExceeded("the client read nothing until the deadline had passed")).status


async def _send(call: StreamCall, answer: ChunkedAnswer, first: list[Outputs], events: EventForm) -> int:
    headers: Headers = [
        (b"content-type", events.content_type),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]
    await call.send({"type": "http.response.start", "status": 200, "headers": [*headers, *call.headers()]})
    status, count, chunks = 200, 0, first
    try:
        while chunks:
            count += len(chunks)
            body = b"".join(events.chunk(outputs) for outputs in chunks)
            await call.send({"type": "http.response.body", "body": body, "more_body": True})
            chunks = await _next(call, answer, events.keep_alive)
        last = events.end(count)
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - the status is out: whatever it is, the client is told in an event
        failed = answer_for(error)
        status, last = failed.status, events.error(failed, call.request_id)
    await call.send({"type": "http.response.body", "body": last})
    return status


async def _next(call: StreamCall, answer: ChunkedAnswer, keep_alive: bytes) -> list[Outputs]:
    """The chunks that come next. Says now and then that it still waits."""
    while True:
        with suppress(_StillWaiting):
            return await _within(KEEP_ALIVE_S, answer)
        await call.send({"type": "http.response.body", "body": keep_alive, "more_body": True})


class _StillWaiting(Exception):  # noqa: N818
    """No chunk came; told apart from the timeout of the whole stream."""


async def _within(seconds: float, answer: ChunkedAnswer) -> list[Outputs]:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await answer.read()
    except TimeoutError:
        if limit.expired():
            raise _StillWaiting from None
        raise


def events_of(form: RouteForm, request: NamedRequest, revision: LiveRevision) -> EventForm:
    """How the events of a route are written."""
    if form is RouteForm.GENERATE_STREAM:
        return GenerateEvents(revision.resource.name, revision.spec.version)
    return NamedEvents(request.outputs)


def _plain(tensor: Tensor) -> Any:
    shown = to_json(tensor)
    value = shown["data"] if "data" in shown else shown["base64"]
    value = value.tolist() if isinstance(value, np.ndarray) else value
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value, option=DUMP_OPTIONS) + b"\n\n"


def abort(scope: Scope) -> None:
    """Ends a connection at once, whatever is unsent."""
    end = (scope.get("extensions") or {}).get(ABORT)
    if end is not None:
        end()
