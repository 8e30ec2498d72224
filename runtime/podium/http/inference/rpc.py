"""`POST /rpc/{name}`: one call in binary frames, answered at once or in chunks; `POST /rpc/{request id}/cancel`.

An answer has the status that every route gives, and frames as its body, errors too. Payloads are the msgpack form of
`:predict`.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from math import ceil

from podium.errors import DeadlineExceeded, InvalidInput
from podium.frames import Broken, End, FrameError, FrameKind, RpcCode, call_of, frame, frames_of, message, structured
from podium.frames import Call as Asked
from podium.http.codec.codecs import Codecs
from podium.http.forms.document import Served, Tensors
from podium.http.forms.packed import msgpack_answer
from podium.http.forms.table import Form
from podium.http.forms.wishes import NamedRequest
from podium.http.inference.call import Call
from podium.http.inference.oip import release
from podium.http.inference.routes import EITHER
from podium.http.inference.streaming import StreamCall, answer_stream
from podium.http.transport.asgi import Answer, Fields, Message, Send, json_answer, respond
from podium.http.transport.body import BodyReader
from podium.http.transport.disconnect import DisconnectWatch
from podium.http.transport.errors import (
    CancelledByClientError,
    ClientGoneError,
    ErrorAnswer,
    UnknownCallError,
    UnsupportedMediaTypeError,
    answer_for,
)
from podium.http.transport.limits import Limits
from podium.http.transport.receiving import Receiving
from podium.serving.dispatch.streams import Outputs
from podium.serving.revisions.admission import Admission
from podium.serving.revisions.live import LiveRevision

MEDIA_TYPE = b"application/x-podium-rpc"
MEDIA_TYPES = (b"", MEDIA_TYPE, b"application/x-nerva-rpc", b"application/octet-stream")
"""The first two, and what Nerva's clients and others send."""
DEADLINE = (b"podium-deadline-ms", b"x-nerva-deadline-ms")
MODE = (b"podium-stream", b"x-nerva-stream")
OWN_ID = b"x-nerva-request-id"
MODES = {b"0": False, b"1": True, b"2": True}
"""Whether the answer comes in chunks. 2 also streams the input, which is read to its end first."""
MAX_DIGITS = 15
EXHAUSTED = frozenset({"queue_full", "predicted_late", "memory_full", "streams_full", "overloaded"})
"""Codes of what there is no room for now."""


@dataclass(slots=True, eq=False)
class _Running:
    """A call that may be cancelled."""

    task: "asyncio.Task[object]"
    key: str | None
    is_cancelled: bool = False
    has_begun: bool = False
    """The status of its answer is out."""
    has_ended: bool = False
    """The last of its answer is on its way: it is too late to cancel it."""
    number: int = 0
    """What its frames carry, once they have been read."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A call that has been read."""

    revision: LiveRevision
    served: Served
    number: int
    inputs: Tensors
    request: NamedRequest
    deadline: float


class RpcRoutes:
    """Serves both routes. Used from one event loop."""

    def __init__(self, admission: Admission, limits: Limits, receiving: Receiving, codecs: Codecs) -> None:
        self._admission = admission
        self._limits = replace(limits, json_bytes=limits.body_bytes)
        self._receiving = receiving
        self._codecs = codecs
        self._running: dict[str, _Running] = {}

    async def answer(self, call: Call, name: str) -> int:
        """Answers to the last byte. Returns the status that counts. Raises ClientGoneError."""
        key = call.fields.get(OWN_ID, b"").decode("ascii", "replace") or call.request_id
        task = asyncio.current_task()
        assert task is not None, "a request is answered by a task"
        running = _Running(task, call.key)
        try:
            if key in self._running:
                raise InvalidInput(f"a call with the request id {key[:80]!r} is under way; expected an id of its own")
            self._running[key] = running
            return await self._answered(replace(call, send=_noting(call.send, running)), name, running)
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - every error has an answer; unforeseen ones are logged there
            return await _refuse(call, answer_for(error), running)
        finally:
            if self._running.get(key) is running:
                del self._running[key]

    async def cancel(self, call: Call, request_id: str) -> int:
        """Cancels a call. Raises UnknownCallError where none of that id is under way for the same API key."""
        running = self._running.get(request_id)
        if running is None or running.has_ended or running.key != call.key:
            raise UnknownCallError(f"no call with the request id {request_id[:80]!r} is under way")
        if not running.is_cancelled:
            running.is_cancelled = True
            running.task.cancel()
        await respond(call.send, json_answer({"cancelled": request_id}, 202), call.headers())
        return 202

    async def _answered(self, call: Call, name: str, running: _Running) -> int:
        try:
            return await self._serve(call, name, running)
        except asyncio.CancelledError:
            if running.is_cancelled and running.task.uncancel() == 0:
                raise CancelledByClientError("the call was cancelled") from None
            raise

    async def _serve(self, call: Call, name: str, running: _Running) -> int:
        in_chunks = _mode(call.fields)
        work = await self._read(call, name, running)
        try:
            if in_chunks:
                stream = StreamCall(call.scope, call.receive, call.send, work.deadline, call.request_id, call.headers)
                events = FrameEvents(work.number, work.served, work.request)
                return await answer_stream(stream, work.revision, work.inputs, events)
            return await self._infer(call, work)
        finally:
            release(work.inputs)

    async def _read(self, call: Call, name: str, running: _Running) -> _Work:
        timeout_s = _timeout_s(call.fields)
        revision = self._admission.pin(call.admitted, name, None, *EITHER)
        body = BodyReader(call.fields, call.receive, self._limits, self._receiving)
        try:
            asked = _asked(await body.read_all("RPC"), name)
            running.number = asked.request
            pieces = [bytes(piece) for piece in asked.payload]
            inputs, request = await self._codecs.read(Form.MSGPACK, revision.contract, pieces)
        finally:
            body.close()
        deadline = call.admitted.deadline(_shorter(request.timeout_s, timeout_s))
        served = Served(revision.resource.name, revision.spec.version, revision.name, call.request_id)
        return _Work(revision, served, asked.request, inputs, request, deadline)

    async def _infer(self, call: Call, work: _Work) -> int:
        with DisconnectWatch(call.receive):
            outputs = await work.revision.infer(work.inputs, call.request_id, work.deadline, work.request.priority)
        try:
            answer = await self._codecs.write(Form.MSGPACK, work.served, work.request, outputs)
        finally:
            release(outputs)
        body = message(work.number, answer.body) + structured(FrameKind.END, work.number, End(chunks=1))
        await respond(call.send, Answer(200, body, MEDIA_TYPE), call.headers())
        return 200


@dataclass(frozen=True, slots=True)
class FrameEvents:
    """Chunks as frames."""

    number: int
    served: Served
    request: NamedRequest
    content_type: bytes = MEDIA_TYPE

    def chunk(self, outputs: Outputs) -> bytes:
        """One message, in the form of an answer at once."""
        return message(self.number, msgpack_answer(self.served, self.request, outputs).body)

    def end(self, chunks: int) -> bytes:
        """END."""
        return structured(FrameKind.END, self.number, End(chunks=chunks))

    def error(self, error: ErrorAnswer, _request_id: str) -> bytes:
        """ERROR."""
        return structured(FrameKind.ERROR, self.number, _broken(error))

    @property
    def keep_alive(self) -> bytes:
        """HEARTBEAT."""
        return frame(FrameKind.HEARTBEAT, self.number)


def code_of(error: ErrorAnswer) -> RpcCode:
    """What a status means in the seven codes of frames."""
    match error.status:
        case 499:
            return RpcCode.ABORTED
        case 503:
            return RpcCode.RESOURCE_EXHAUSTED if error.code in EXHAUSTED else RpcCode.UNAVAILABLE
        case 504:
            return RpcCode.DEADLINE_EXCEEDED
        case status if status < 500:
            return RpcCode.INVALID_ARGUMENT
        case _:
            return RpcCode.INTERNAL


def _broken(error: ErrorAnswer) -> Broken:
    return Broken(code_of(error), error.message, error.retryable, error.code)


async def _refuse(call: Call, error: ErrorAnswer, running: _Running) -> int:
    """An error as a frame: the whole answer, or the end of one that has begun."""
    body = structured(FrameKind.ERROR, running.number, _broken(error))
    if running.has_begun:
        await call.send({"type": "http.response.body", "body": body})
    else:
        seconds = error.retry_after_s
        retry = ((b"retry-after", str(max(1, ceil(seconds))).encode()),) if seconds is not None else ()
        await respond(call.send, Answer(error.status, body, MEDIA_TYPE, (*error.headers, *retry)), call.headers())
    return error.status


def _noting(send: Send, running: _Running) -> Send:
    async def noted(sent: Message) -> None:
        running.has_begun = True
        is_whole = sent["type"] == "http.response.start" and any(
            name == b"content-length" for name, _ in sent["headers"]
        )
        is_last = sent["type"] == "http.response.body" and not sent.get("more_body", False)
        running.has_ended = running.has_ended or is_whole or is_last
        await send(sent)

    return noted


def _asked(pieces: list[bytes], name: str) -> Asked:
    try:
        asked = call_of(frames_of(memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))))
    except FrameError as error:
        raise InvalidInput(str(error)) from error
    if asked.pipeline != name:
        raise InvalidInput(f"OPEN names {asked.pipeline[:80]!r}, the path {name[:80]!r}; expected one name")
    return asked


def _mode(fields: Fields) -> bool:
    media_type = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise UnsupportedMediaTypeError(f"content-type {media_type[:80]!r} is not read here; expected {MEDIA_TYPE!r}")
    given = _first(fields, MODE) or b"0"
    if given not in MODES:
        raise InvalidInput(f"podium-stream is {given[:20]!r}; expected 0, 1 or 2")
    return MODES[given]


def _timeout_s(fields: Fields) -> float | None:
    """How long the client waits. Raises InvalidInput, DeadlineExceeded."""
    given = _first(fields, DEADLINE)
    if given is None:
        return None
    if not given.isdigit() or len(given) > MAX_DIGITS:
        raise InvalidInput("podium-deadline-ms must be a time in milliseconds since 1970")
    left = int(given) / 1000 - time.time()
    if left <= 0:
        raise DeadlineExceeded("the deadline had passed when the request came")
    return left


def _first(fields: Fields, names: tuple[bytes, ...]) -> bytes | None:
    return next((fields[name] for name in names if name in fields), None)


def _shorter(left: float | None, right: float | None) -> float | None:
    return min((value for value in (left, right) if value is not None), default=None)
