"""The front door of the data port: plain ASGI for inference, everything else goes to the FastAPI application.

Every answer carries a request id, the trace it belongs to and, where one is known, its revision's name; while the pod
closes, `Connection: close`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from os import urandom
from typing import NamedTuple

from podium.http.access_log import Access, AccessLog
from podium.http.api_keys import ApiKeys
from podium.http.asgi import (
    Answer,
    App,
    Fields,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    error_answer,
    fields_of,
    respond,
)
from podium.http.body import BodyReader
from podium.http.disconnect import DisconnectWatch
from podium.http.errors import ClientGoneError, MethodNotAllowedError, answer_for
from podium.http.limits import REQUEST_ID, Limits
from podium.http.oip import Receiving, infer_answer, read_infer, release
from podium.http.predict import parse_predict, predict_answer
from podium.http.routes import HotRoute, RouteForm
from podium.http.single import batch_answer, parse_batch, parse_single, single_answer
from podium.http.trace import SPAN_BYTES, TRACE_BYTES, TraceContext
from podium.ipc.tensor import Tensor
from podium.serving.admission import Admission, Admitted
from podium.serving.live import LiveRevision
from podium.serving.residents import Residents
from podium_crds.keys import HEADER_REQUEST_ID, HEADER_REVISION

CLOSE = (b"connection", b"close")
REQUEST_ID_FIELD = HEADER_REQUEST_ID.encode()
REVISION_FIELD = HEADER_REVISION.encode()
STATUS_CLIENT_GONE = 499


class Door(NamedTuple):
    """What guards and describes requests, beside the models themselves."""

    limits: Limits
    keys: ApiKeys | None
    """None: anybody may ask."""
    access_log: AccessLog


@dataclass(slots=True)
class Caller:
    """Who asks, as the headers say."""

    fields: Fields
    request_id: str
    trace: TraceContext
    key: str | None = None
    """Name of the API key."""


@dataclass(slots=True)
class Exchange:
    """One inference request under way."""

    scope: Scope
    receive: Receive
    send: Send
    route: HotRoute
    caller: Caller
    admitted: Admitted


class FrontDoor:
    """ASGI application of the data port."""

    def __init__(
        self, residents: Residents, receiving: Receiving, door: Door, cold: App, clock: Callable[[], float]
    ) -> None:
        self._residents = residents
        self._receiving = receiving
        self._limits = door.limits
        self._keys = door.keys
        self._access_log = door.access_log
        self._cold = cold
        self._clock = clock
        self._admission = Admission(residents, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (or the lifespan)."""
        if scope["type"] != "http":
            await self._cold(scope, receive, send)
            return
        caller = _caller(scope)
        route = HotRoute.of(scope["path"])
        if route is None:
            await self._serve_cold(scope, receive, send, caller)
        else:
            await self._serve(Exchange(scope, receive, send, route, caller, self._admission.enter()))

    async def _serve(self, exchange: Exchange) -> None:
        """Answers one inference request, and counts it."""
        status = STATUS_CLIENT_GONE
        try:
            status = await self._answer(exchange)
        finally:
            self._admission.leave(exchange.admitted, exchange.route.form, status)
            if self._access_log.enabled:
                pinned = exchange.admitted.revision
                self._log(exchange.scope, exchange.caller, status, exchange.admitted.started, pinned)

    async def _answer(self, exchange: Exchange) -> int:
        route = exchange.route
        try:
            if self._keys is not None:
                exchange.caller.key = self._keys.name_of(exchange.caller.fields)
            if exchange.scope["method"] != "POST":
                raise MethodNotAllowedError(exchange.scope["method"], "POST")
            revision = self._admission.pin(exchange.admitted, route.name, route.version, *route.kinds)
            answer = await self._handler(route.form)(exchange, revision)
        except ClientGoneError:
            return STATUS_CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - every error has an answer; unforeseen ones are logged there
            plain = route.form is RouteForm.INFER
            answer = error_answer(answer_for(error), exchange.caller.request_id, plain=plain)
        await respond(exchange.send, answer, self._headers(exchange))
        return answer.status

    def _handler(self, form: RouteForm) -> Callable[[Exchange, LiveRevision], Awaitable[Answer]]:
        if form is RouteForm.INFER:
            return self._infer
        return self._predict if form in (RouteForm.PREDICT, RouteForm.RUN) else self._single

    async def _predict(self, exchange: Exchange, revision: LiveRevision) -> Answer:
        body = BodyReader(exchange.caller.fields, exchange.receive, self._limits)
        request = parse_predict(await body.read_json(), revision)
        deadline = exchange.admitted.deadline(request.timeout_s)
        outputs = await self._watched(exchange, revision, request.inputs, deadline)
        try:
            return predict_answer(revision, outputs, request.outputs)
        finally:
            release(outputs)

    async def _single(self, exchange: Exchange, revision: LiveRevision) -> Answer:
        raw = await BodyReader(exchange.caller.fields, exchange.receive, self._limits).read_json()
        is_batch = exchange.route.form is RouteForm.BATCH
        request = parse_batch(raw, revision) if is_batch else parse_single(raw, revision)
        outputs = await self._watched(exchange, revision, request.inputs, exchange.admitted.deadline(None))
        try:
            if is_batch:
                return batch_answer(outputs)
            took_ms = round((self._clock() - exchange.admitted.started) * 1000, 3)
            more = {"request_id": exchange.caller.request_id, "latency_ms": took_ms}
            return single_answer(revision, request, outputs, more)
        finally:
            release(outputs)

    async def _infer(self, exchange: Exchange, revision: LiveRevision) -> Answer:
        fields = exchange.caller.fields
        body = BodyReader(fields, exchange.receive, self._limits)
        request = await read_infer(fields, body, revision, self._receiving)
        outputs: dict[str, Tensor] = {}
        try:
            deadline = exchange.admitted.deadline(request.timeout_s)
            outputs = await self._watched(exchange, revision, request.inputs, deadline)
            return infer_answer(revision, request, outputs)
        finally:
            release(request.inputs)
            release(outputs)

    async def _watched(
        self, exchange: Exchange, revision: LiveRevision, inputs: dict[str, Tensor], deadline: float
    ) -> dict[str, Tensor]:
        """The outputs; if the client leaves before they are there, the work is cancelled and ClientGoneError raised."""
        watch = DisconnectWatch(exchange.receive)
        try:
            return await revision.infer(inputs, exchange.caller.request_id, deadline)
        except asyncio.CancelledError:
            if watch.client_left and watch.uncancel():
                raise ClientGoneError("the client closed the connection") from None
            raise
        finally:
            watch.stop()

    def _headers(self, exchange: Exchange) -> Headers:
        pinned = exchange.admitted.revision
        return self._common(exchange.caller, pinned.name if pinned else self._sole_revision())

    def _common(self, caller: Caller, revision: str | None) -> Headers:
        headers: Headers = [(REQUEST_ID_FIELD, caller.request_id.encode()), (b"traceparent", caller.trace.traceparent)]
        if revision is not None:
            headers.append((REVISION_FIELD, revision.encode()))
        if caller.trace.state is not None:
            headers.append((b"tracestate", caller.trace.state))
        if self._residents.drain.is_closing:
            headers.append(CLOSE)
        return headers

    def _sole_revision(self) -> str | None:
        """The revision that answers most, where one resource is served and nothing more exact is known."""
        routes = tuple(self._residents.router.table.routes.values())
        primary = routes[0].primary if len(routes) == 1 else None
        return primary.name if primary else None

    async def _serve_cold(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        started, status = self._clock(), STATUS_CLIENT_GONE

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                common = self._common(caller, self._sole_revision())
                message = {**message, "headers": [*message.get("headers", ()), *common]}
            await send(message)

        scope.setdefault("state", {})["request_id"] = caller.request_id
        try:
            await self._cold(scope, receive, send_with_headers)
        finally:
            if self._access_log.enabled:
                self._log(scope, caller, status, started, None)

    def _log(self, scope: Scope, caller: Caller, status: int, started: float, revision: LiveRevision | None) -> None:
        self._access_log.write(
            Access(
                scope["method"],
                scope["path"],
                status,
                self._clock() - started,
                caller.request_id,
                caller.trace.trace_id,
                revision.name if revision else None,
                caller.key,
            )
        )


def _caller(scope: Scope) -> Caller:
    fields = fields_of(scope)
    ids = urandom(SPAN_BYTES + TRACE_BYTES)
    trace = TraceContext.of(fields.get(b"traceparent"), fields.get(b"tracestate"), ids)
    given = fields.get(REQUEST_ID_FIELD)
    is_usable = given is not None and REQUEST_ID.match(given) is not None
    return Caller(fields, given.decode() if given is not None and is_usable else trace.trace_id, trace)
