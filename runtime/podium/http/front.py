"""The front door of the data port: plain ASGI for inference, everything else goes to the FastAPI application.

Every answer carries a request id and, where a revision is known, its name; while the pod closes, `Connection: close`.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from os import urandom
from urllib.parse import unquote

from podium.http.asgi import Answer, App, Headers, Message, Receive, Scope, Send, error_answer, header, respond
from podium.http.body import BodyReader
from podium.http.errors import ClientGoneError, MethodNotAllowedError, answer_for
from podium.http.limits import REQUEST_ID, TRACEPARENT, Limits
from podium.http.oip import Receiving, infer_answer, read_infer, release
from podium.http.predict import parse_predict, predict_answer
from podium.ipc.tensor import Tensor
from podium.serving.admission import Admission, Admitted
from podium.serving.live import LiveRevision
from podium.serving.residents import Residents
from podium_crds.assignment import ResourceKind
from podium_crds.keys import HEADER_REQUEST_ID, HEADER_REVISION

HOT_PATH = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(/versions/(?P<model_version>[^/:]+))?:predict\Z"
    r"|/v1/pipelines/(?P<pipeline>[^/:]+)(/versions/(?P<pipeline_version>[^/:]+))?:run\Z"
    r"|/v2/models/(?P<oip>[^/]+)(/versions/(?P<oip_version>[^/]+))?/infer\Z"
)
CLOSE = (b"connection", b"close")
STATUS_CLIENT_GONE = 499
WATCH_AFTER_S = 0.05
"""A request that takes longer is watched for its client's leaving; a shorter one is not worth the task."""


@dataclass(frozen=True, slots=True)
class HotRoute:
    """What an inference path asks for."""

    label: str
    name: str
    version: str | None
    kinds: tuple[ResourceKind, ...]

    @classmethod
    def of(cls, path: str) -> "HotRoute | None":
        """None for every other path."""
        match = HOT_PATH.match(path)
        if match is None:
            return None
        if name := match["model"]:
            return cls("predict", unquote(name), _unquoted(match["model_version"]), (ResourceKind.MODEL,))
        if name := match["pipeline"]:
            return cls("run", unquote(name), _unquoted(match["pipeline_version"]), (ResourceKind.PIPELINE,))
        both = (ResourceKind.MODEL, ResourceKind.PIPELINE)
        return cls("infer", unquote(match["oip"]), _unquoted(match["oip_version"]), both)


@dataclass(slots=True)
class Exchange:
    """One inference request under way."""

    scope: Scope
    receive: Receive
    send: Send
    route: HotRoute
    request_id: str
    admitted: Admitted


class FrontDoor:
    """ASGI application of the data port."""

    def __init__(
        self, residents: Residents, receiving: Receiving, limits: Limits, cold: App, clock: Callable[[], float]
    ) -> None:
        self._residents = residents
        self._receiving = receiving
        self._limits = limits
        self._cold = cold
        self._admission = Admission(residents, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (or the lifespan)."""
        if scope["type"] != "http":
            await self._cold(scope, receive, send)
            return
        request_id = _request_id(scope)
        route = HotRoute.of(scope["path"])
        if route is None:
            await self._cold(scope, receive, self._with_headers(scope, send, request_id))
        else:
            await self._serve(Exchange(scope, receive, send, route, request_id, self._admission.enter()))

    async def _serve(self, exchange: Exchange) -> None:
        """Answers one inference request, and counts it."""
        status = STATUS_CLIENT_GONE
        try:
            status = await self._answer(exchange)
        finally:
            self._admission.leave(exchange.admitted, exchange.route.label, status)

    async def _answer(self, exchange: Exchange) -> int:
        route = exchange.route
        try:
            if exchange.scope["method"] != "POST":
                raise MethodNotAllowedError(f"{exchange.scope['method']} is not taken here; expected POST")
            revision = self._admission.pin(exchange.admitted, route.name, route.version, *route.kinds)
            handler = self._infer if route.label == "infer" else self._predict
            answer = await handler(exchange, revision)
        except ClientGoneError:
            return STATUS_CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - every error has an answer; unforeseen ones are logged there
            answer = error_answer(answer_for(error), exchange.request_id, plain=route.label == "infer")
        await respond(exchange.send, answer, self._headers(exchange))
        return answer.status

    async def _predict(self, exchange: Exchange, revision: LiveRevision) -> Answer:
        body = BodyReader(exchange.scope, exchange.receive, self._limits)
        request = parse_predict(await body.read_json(), revision)
        deadline = exchange.admitted.deadline(request.timeout_s)
        outputs = await self._watched(exchange, revision, request.inputs, deadline)
        try:
            return predict_answer(revision, outputs, request.outputs)
        finally:
            release(outputs)

    async def _infer(self, exchange: Exchange, revision: LiveRevision) -> Answer:
        body = BodyReader(exchange.scope, exchange.receive, self._limits)
        request = await read_infer(exchange.scope, body, revision, self._receiving)
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
        watch = _DisconnectWatch(exchange.receive)
        try:
            return await revision.infer(inputs, exchange.request_id, deadline)
        except asyncio.CancelledError:
            if watch.client_left and watch.uncancel():
                raise ClientGoneError("the client closed the connection") from None
            raise
        finally:
            watch.stop()

    def _headers(self, exchange: Exchange) -> Headers:
        pinned = exchange.admitted.revision
        revision = pinned.name if pinned else self._sole_revision()
        return self._common(exchange.scope, exchange.request_id, revision)

    def _common(self, scope: Scope, request_id: str, revision: str | None) -> Headers:
        headers: Headers = [(HEADER_REQUEST_ID.encode(), request_id.encode())]
        if revision is not None:
            headers.append((HEADER_REVISION.encode(), revision.encode()))
        trace = header(scope, b"traceparent")
        if trace is not None and TRACEPARENT.match(trace):
            headers.append((b"traceparent", trace))
        if self._residents.drain.is_closing:
            headers.append(CLOSE)
        return headers

    def _sole_revision(self) -> str | None:
        """The revision that answers most, where one resource is served and nothing more exact is known."""
        routes = tuple(self._residents.router.table.routes.values())
        primary = routes[0].primary if len(routes) == 1 else None
        return primary.name if primary else None

    def _with_headers(self, scope: Scope, send: Send, request_id: str) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                common = self._common(scope, request_id, self._sole_revision())
                message = {**message, "headers": [*message.get("headers", ()), *common]}
            await send(message)

        scope.setdefault("state", {})["request_id"] = request_id
        return send_with_headers


class _DisconnectWatch:
    """After a while, waits for the client's leaving, and cancels the request that created it.

    Only for after the body has been read: both take from the same `receive`.
    """

    def __init__(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self.client_left = False
        self._receive = receive
        self._request = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._timer = loop.call_later(WATCH_AFTER_S, self._begin)

    def uncancel(self) -> bool:
        """True where the client's leaving was the only reason for the cancellation."""
        return self._request is not None and self._request.uncancel() == 0

    def stop(self) -> None:
        """The request has ended."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":  # noqa: ASYNC110 - ASGI has no event
            await asyncio.sleep(WATCH_AFTER_S)
        self.client_left = True
        if self._request is not None:
            self._request.cancel()


def _unquoted(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _request_id(scope: Scope) -> str:
    given = header(scope, HEADER_REQUEST_ID.encode())
    return given.decode() if given is not None and REQUEST_ID.match(given) else urandom(16).hex()
