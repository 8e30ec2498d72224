"""The front door of the data port: plain ASGI for inference, everything else goes to the FastAPI application.

Every answer carries a request id, the trace it belongs to and, where one is known, its revision's name; while the pod
closes, `Connection: close`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from os import urandom
from typing import Any, NamedTuple

from podium.http.codec.codecs import Codecs
from podium.http.forms.document import Served
from podium.http.forms.infer import HEADER_LENGTH
from podium.http.forms.table import Form, body_form
from podium.http.forms.wishes import NamedRequest
from podium.http.inference.call import Call
from podium.http.inference.choosing import FORMS, NAMED_FORMS, forms_of, own_forms_of
from podium.http.inference.oip import read_infer, release
from podium.http.inference.openai import OpenAIRoutes
from podium.http.inference.openai_errors import openai_error
from podium.http.inference.own_forms import OwnForms, read_own, write_own
from podium.http.inference.routes import OPENAI_PATHS, HotRoute, RouteForm, right_path
from podium.http.inference.rpc import RpcRoutes
from podium.http.inference.streaming import StreamCall, answer_stream, events_of, wants_events
from podium.http.transport.access_log import Access, AccessLog
from podium.http.transport.api_keys import ApiKeys
from podium.http.transport.asgi import (
    BODY,
    WHOLE,
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
from podium.http.transport.body import BodyReader
from podium.http.transport.disconnect import DisconnectWatch
from podium.http.transport.errors import ClientGoneError, MethodNotAllowedError, WrongKindError, answer_for
from podium.http.transport.explaining import EXPLAIN, Account, account_of, answered
from podium.http.transport.incoming import Incoming
from podium.http.transport.lending import Lending
from podium.http.transport.limits import REQUEST_ID, Limits
from podium.http.transport.receiving import Receiving
from podium.http.transport.trace import SPAN_BYTES, TRACE_BYTES, TraceContext
from podium.ipc.tensor import Tensor
from podium.serving.revisions.admission import Admission, Admitted
from podium.serving.revisions.errors import UnknownModelError
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.residents import Residents
from podium.telemetry.outgoing import TRACE
from podium.telemetry.traced import Spans
from podium_crds.keys import HEADER_REQUEST_ID, HEADER_REVISION

STREAMED = frozenset({RouteForm.STREAM, RouteForm.GENERATE_STREAM})
CLOSE = (b"connection", b"close")
OPENAI_FORMS = frozenset(OPENAI_PATHS.values())
REQUEST_ID_FIELD = HEADER_REQUEST_ID.encode()
REVISION_FIELD = HEADER_REVISION.encode()
STATUS_CLIENT_GONE = 499


class Door(NamedTuple):
    """What guards and describes requests, beside the models themselves."""

    limits: Limits
    keys: ApiKeys | None
    """None: anybody may ask."""
    access_log: AccessLog
    receiving: Receiving
    codecs: Codecs
    lending: Lending
    spans: Spans | None = None
    """None: nothing is traced."""


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
    account: Account | None = None
    """None: it is neither traced nor explained."""


class FrontDoor:
    """ASGI application of the data port."""

    def __init__(self, residents: Residents, door: Door, cold: App, clock: Callable[[], float]) -> None:
        self._residents = residents
        self._receiving = door.receiving
        self._codecs = door.codecs
        self._lending = door.lending
        self._limits = door.limits
        self._keys = door.keys
        self._access_log = door.access_log
        self._spans = door.spans
        self._cold = cold
        self._clock = clock
        self._admission = Admission(residents, clock)
        self._openai = OpenAIRoutes(self._admission, door.limits, door.receiving)
        self._rpc = RpcRoutes(self._admission, door.limits, door.receiving, door.codecs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (or the lifespan)."""
        if scope["type"] != "http":
            await self._cold(scope, receive, send)
            return
        caller = _caller(scope)
        route = HotRoute.of(scope["path"])
        if route is not None and route.form in NAMED_FORMS and wants_events(caller.fields):
            route = replace(route, form=RouteForm.STREAM)
        if route is None:
            await self._serve_cold(scope, receive, send, caller)
        else:
            account = account_of(caller.trace, self._spans, caller.fields.get(EXPLAIN))
            if account is not None and account.is_traced:
                caller.trace = caller.trace.sampled()
            TRACE.set(caller.trace)
            exchange = Exchange(scope, receive, send, route, caller, self._admission.enter(), account)
            with account.kept() if account is not None else nullcontext():
                await self._serve(exchange)

    async def _serve(self, exchange: Exchange) -> None:
        """Answers one inference request, and counts it."""
        status = STATUS_CLIENT_GONE
        try:
            status = await self._answer(exchange)
        finally:
            is_traced = exchange.account is not None and exchange.account.is_traced
            trace_id = exchange.caller.trace.trace_id if is_traced else None
            self._admission.leave(exchange.admitted, exchange.route.form, status, trace_id)
            if is_traced:
                self._record(exchange, status)
            if self._access_log.enabled:
                pinned = exchange.admitted.revision
                self._log(exchange.scope, exchange.caller, status, exchange.admitted.started, pinned)

    def _record(self, exchange: Exchange, status: int) -> None:
        assert self._spans is not None, "traced"
        assert exchange.account is not None, "traced"
        caller, pinned = exchange.caller, exchange.admitted.revision
        told = answered(
            exchange.scope["path"],
            exchange.admitted.started,
            self._clock(),
            status,
            caller.request_id,
            pinned.name if pinned else None,
        )
        self._spans.record(caller.trace, told, exchange.account.timeline)

    async def _answer(self, exchange: Exchange) -> int:
        route = exchange.route
        try:
            if self._keys is not None:
                exchange.caller.key = self._keys.name_of(exchange.caller.fields)
            if exchange.scope["method"] != "POST":
                raise MethodNotAllowedError(exchange.scope["method"], "POST")
            if route.form in OPENAI_FORMS:
                return await self._openai.answer(self._call(exchange))
            if route.form is RouteForm.RPC:
                return await self._rpc.answer(self._call(exchange), route.name)
            if route.form is RouteForm.RPC_CANCEL:
                return await self._rpc.cancel(self._call(exchange), route.name)
            revision = self._pinned(exchange)
            if route.form in STREAMED:
                return await self._streamed(exchange, revision)
            answer = await self._inferred(exchange, revision)
        except ClientGoneError:
            return STATUS_CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - every error has an answer; unforeseen ones are logged there
            answer = _error_answer(error, exchange)
        whole = exchange.scope.get("extensions", {}).get(WHOLE)
        await respond(exchange.send, answer, self._headers(exchange), whole)
        return answer.status

    def _pinned(self, exchange: Exchange) -> LiveRevision:
        """Who answers. Raises as Admission.pin, and WrongKindError."""
        route, path = exchange.route, exchange.scope["path"]
        try:
            return self._admission.pin(exchange.admitted, route.name, route.version, *route.kinds)
        except UnknownModelError:
            if (right := right_path(path, self._residents.router.table.routes)) is not None:
                raise WrongKindError(route.name, *right) from None
            raise

    def _call(self, exchange: Exchange) -> Call:
        caller = exchange.caller
        return Call(
            exchange.scope,
            caller.fields,
            exchange.receive,
            exchange.send,
            exchange.admitted,
            caller.request_id,
            lambda: self._headers(exchange),
            caller.key,
        )

    async def _inferred(self, exchange: Exchange, revision: LiveRevision) -> Answer:
        """Body in, model, body out."""
        caller = exchange.caller
        own = own_forms_of(exchange.route.form, caller.fields, revision.codecs)
        form, answer_as = forms_of(exchange.route.form, caller.fields, own, revision.codecs)
        length = caller.fields.get(HEADER_LENGTH) if form is Form.INFER else None
        is_raw = length is not None or (own is not None and own.reads is not None)
        incoming = _incoming(exchange) if is_raw else None
        body = BodyReader(caller.fields, exchange.receive, self._limits, self._receiving, incoming)
        try:
            request: Any
            if own is not None and own.reads is not None:
                inputs, request = await self._own_inputs(exchange, revision, own, body), NamedRequest()
            elif length is not None:
                inputs, request = await read_infer(length, body, revision.contract, self._receiving, self._codecs)
            else:
                inputs, request = await self._codecs.read(form, revision.contract, await body.read_all(form))
        finally:
            body.close()
            revision.body_counts.came_in(body.counts)
        outputs: dict[str, Tensor] = {}
        try:
            deadline = exchange.admitted.deadline(getattr(request, "timeout_s", None))
            priority: int = getattr(request, "priority", 0)
            outputs = await self._watched(exchange, revision, inputs, deadline, priority)
            if own is not None and own.writes is not None:
                with DisconnectWatch(exchange.receive):
                    return await write_own(own, outputs, caller.request_id, deadline)
            served = Served(revision.resource.name, revision.spec.version, revision.name, caller.request_id)
            answer = await self._codecs.write(answer_as, served, request, outputs)
            return self._lending.lent(answer, revision.body_counts) if answer.tensors else answer
        finally:
            release(inputs)
            release(outputs)

    async def _own_inputs(
        self, exchange: Exchange, revision: LiveRevision, own: OwnForms, body: BodyReader
    ) -> dict[str, Tensor]:
        """As `read_own`."""
        deadline, request_id = exchange.admitted.deadline(None), exchange.caller.request_id
        return await read_own(own, body, revision.contract, self._receiving, request_id, deadline)

    async def _streamed(self, exchange: Exchange, revision: LiveRevision) -> int:
        """Body in, events out. Returns the status that counts."""
        caller, route = exchange.caller, exchange.route.form
        own = own_forms_of(route, caller.fields, revision.codecs)
        body = BodyReader(caller.fields, exchange.receive, self._limits, self._receiving)
        try:
            if own is not None and own.reads is not None:
                inputs, request = await self._own_inputs(exchange, revision, own, body), NamedRequest()
            else:
                form = FORMS[route] if route in FORMS else body_form(caller.fields.get(b"content-type"))
                inputs, request = await self._codecs.read(form, revision.contract, await body.read_all(form))
        finally:
            body.close()
        deadline = exchange.admitted.deadline(request.timeout_s)
        call = StreamCall(
            exchange.scope,
            exchange.receive,
            exchange.send,
            deadline,
            caller.request_id,
            lambda: self._headers(exchange),
        )
        try:
            return await answer_stream(call, revision, inputs, events_of(route, request, revision))
        finally:
            release(inputs)

    async def _watched(
        self, exchange: Exchange, revision: LiveRevision, inputs: dict[str, Tensor], deadline: float, priority: int
    ) -> dict[str, Tensor]:
        """The outputs; if the client leaves before they are there, the work is cancelled and ClientGoneError raised."""
        with DisconnectWatch(exchange.receive):
            return await revision.infer(inputs, exchange.caller.request_id, deadline, priority)

    def _headers(self, exchange: Exchange) -> Headers:
        pinned = exchange.admitted.revision
        headers = self._common(exchange.caller, pinned.name if pinned else self._sole_revision())
        if exchange.account is not None and (timing := exchange.account.header(exchange.admitted.started)) is not None:
            headers.append(timing)
        return headers

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
                caller.key = scope["state"].get("key")
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


def _incoming(exchange: Exchange) -> Incoming | None:
    claim = exchange.scope.get("extensions", {}).get(BODY)
    return claim(exchange.receive) if claim is not None else None


def _error_answer(error: Exception, exchange: Exchange) -> Answer:
    """In the form that the route's clients know."""
    found, request_id = answer_for(error), exchange.caller.request_id
    if exchange.route.form in OPENAI_FORMS:
        return openai_error(found, request_id)
    plain = exchange.route.form in (RouteForm.INFER, RouteForm.GENERATE_STREAM)
    return error_answer(found, request_id, plain=plain)


def _caller(scope: Scope) -> Caller:
    fields = fields_of(scope)
    ids = urandom(SPAN_BYTES + TRACE_BYTES)
    trace = TraceContext.of(fields.get(b"traceparent"), fields.get(b"tracestate"), ids)
    given = fields.get(REQUEST_ID_FIELD)
    is_usable = given is not None and REQUEST_ID.match(given) is not None
    return Caller(fields, given.decode() if given is not None and is_usable else trace.trace_id, trace)
