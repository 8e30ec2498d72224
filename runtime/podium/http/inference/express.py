"""The express lane: small JSON requests for one model go from the connection to the batch and back without ASGI.

A task, an event, two timers, four coroutines and a dictionary for each request cost more than the request. Whatever is
not ordinary (a large body, binary tensors, a pipeline, a trace to go on with, an access log, no API key where one is
needed, a drain) goes the way of all others; both ways share the parsing, the admission and the answers.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from os import urandom
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from podium.http.codec.codecs import LARGE_ANSWER_BYTES, text_bytes
from podium.http.forms.contents import IsolatedContentError
from podium.http.forms.document import Served, Tensors
from podium.http.forms.infer import InferRequest, infer_answer, parse_infer
from podium.http.forms.named import parse_predict, predict_answer
from podium.http.forms.table import Form
from podium.http.forms.wishes import NamedRequest
from podium.http.inference.front import REQUEST_ID_FIELD, REVISION_FIELD, STATUS_CLIENT_GONE, Door
from podium.http.inference.heads import KnownHeads
from podium.http.inference.routes import HotRoute, RouteForm
from podium.http.transport.api_keys import KEY_FIELDS, ApiKeys
from podium.http.transport.asgi import JSON, Answer, Piece, error_answer
from podium.http.transport.errors import UnauthorizedError, answer_for
from podium.http.transport.explaining import EXPLAIN
from podium.http.transport.limits import REQUEST_ID
from podium.http.transport.trace import SPAN_BYTES, TRACE_BYTES
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.direct import DirectCall
from podium.serving.revisions.admission import Admission, Admitted
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.residents import Residents
from podium.serving.revisions.routing import Route, RouteTable

MAX_BODY_BYTES = 64 << 10
"""Larger bodies take their time anyway, and are read with a time limit."""
TAKEN_FORMS = frozenset((RouteForm.INFER, RouteForm.PREDICT))
NOT_ORDINARY = frozenset(
    (
        b"content-encoding",
        b"expect",
        EXPLAIN,
        b"inference-header-content-length",
        b"traceparent",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Request headers that send a request the usual way."""
ANY_JSON = frozenset((b"*/*", JSON))
PATHS_KEPT = 1024
IDS_DRAWN = 256

Headers = Sequence[tuple[bytes, bytes]]


class Line(Protocol):
    """The connection that a request came on."""

    def answer(self, head: bytes, body: bytes, parts: Sequence[Piece], *, close: bool) -> None:
        """Writes the whole answer, and closes the connection after it if told to. `head` ends before the empty line;
        `parts` follow the body, and may be referred to until they have left."""


class ExpressRequest:
    """One request from its last byte to its answer. `cancel` when the client has gone."""

    __slots__ = ("_call", "_ids", "_is_cancelled", "_lane", "_line", "_request_id", "_route", "_wishes", "admitted")

    def __init__(
        self, lane: "ExpressLane", line: Line, route: HotRoute, admitted: Admitted, request_id: str, ids: bytes
    ) -> None:
        """`ids`: the headers of the answer that name the request and its trace."""
        self._lane = lane
        self._line = line
        self._route = route
        self._request_id = request_id
        self._ids = ids
        self._call: DirectCall | None = None
        self._is_cancelled = False
        self._wishes: InferRequest | NamedRequest | None = None
        self.admitted = admitted

    def begin(self, body: bytes) -> None:
        """Parses and submits; an error is answered at once."""
        admitted, route = self.admitted, self._route
        try:
            revision = self._lane.admission.pin(admitted, route.name, route.version, *route.kinds)
            parse = parse_infer if route.form is RouteForm.INFER else parse_predict
            self._submit(revision, *parse(body, revision.contract))
        except IsolatedContentError:
            self._lane.run(self._read_apart(body))
        except Exception as error:  # noqa: BLE001 - every error has an answer; unforeseen ones are logged there
            self._end(self._refused(error))

    def _submit(self, revision: LiveRevision, inputs: Tensors, wishes: InferRequest | NamedRequest) -> None:
        self._wishes = wishes
        deadline = self.admitted.deadline(wishes.timeout_s)
        self._call = revision.begin(inputs, self._request_id, deadline, self._answered, wishes.priority)

    async def _read_apart(self, body: bytes) -> None:
        """Has a body read that only the codec process may read."""
        revision, is_infer = self.admitted.revision, self._route.form is RouteForm.INFER
        assert revision is not None, "pinned before it was parsed"
        try:
            form = Form.INFER if is_infer else Form.NAMED
            inputs, wishes = await self._lane.codecs.read(form, revision.contract, [body])
            try:
                if not self._is_cancelled:
                    self._submit(revision, inputs, wishes)
            finally:
                for tensor in inputs.values():
                    tensor.release()
        except Exception as error:  # noqa: BLE001 - as above
            if not self._is_cancelled:
                self._end(self._refused(error))
        if self._is_cancelled and self._call is None:
            self._lane.admission.leave(self.admitted, self._route.form, STATUS_CLIENT_GONE)

    def cancel(self) -> None:
        """Nobody reads the answer."""
        self._is_cancelled = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
            self._lane.admission.leave(self.admitted, self._route.form, STATUS_CLIENT_GONE)

    def _answered(self, outputs: Mapping[str, Tensor] | None, error: Exception | None) -> None:
        if self._call is None:
            return
        self._call = None
        if outputs is not None and text_bytes(self._wishes, outputs) > LARGE_ANSWER_BYTES:
            self._lane.run(self._compose_apart({name: tensor.retain() for name, tensor in outputs.items()}))
            return
        try:
            answer = self._refused(error) if outputs is None else self._composed(outputs)
        except Exception as broken:  # noqa: BLE001 - as above
            answer = self._refused(broken)
        self._end(answer)

    def _composed(self, outputs: Mapping[str, Tensor]) -> Answer:
        wishes, served = self._wishes, self._served()
        if isinstance(wishes, InferRequest):
            return self._lent(infer_answer(served, wishes, outputs))
        assert wishes is not None, "a request that was submitted was parsed"
        return predict_answer(served, wishes, outputs)

    async def _compose_apart(self, outputs: Mapping[str, Tensor]) -> None:
        """Has a large answer written in the codec process. Owns the outputs."""
        try:
            form = Form.INFER if isinstance(self._wishes, InferRequest) else Form.NAMED
            answer = self._lent(await self._lane.codecs.write(form, self._served(), self._wishes, outputs))
        except Exception as error:  # noqa: BLE001 - as above
            answer = self._refused(error)
        finally:
            for tensor in outputs.values():
                tensor.release()
        self._end(answer)

    def _lent(self, answer: Answer) -> Answer:
        revision = self.admitted.revision
        assert revision is not None, "a request that was submitted is pinned"
        return self._lane.lending.lent(answer, revision.body_counts) if answer.tensors else answer

    def _served(self) -> Served:
        revision = self.admitted.revision
        assert revision is not None, "a request that was submitted is pinned"
        return Served(revision.resource.name, revision.spec.version, revision.name, self._request_id)

    def _refused(self, error: Exception | None) -> Answer:
        assert error is not None, "an outcome is outputs or an error"
        return error_answer(answer_for(error), self._request_id, plain=self._route.form is RouteForm.INFER)

    def _end(self, answer: Answer) -> None:
        lane = self._lane
        head = lane.head(answer, self._ids, self.admitted.revision)
        lane.admission.leave(self.admitted, self._route.form, answer.status)
        self._line.answer(head, answer.body, answer.parts, close=lane.is_closing)


class _Ids:
    """Random ids, drawn many at a time."""

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def draw(self) -> tuple[bytes, bytes]:
        """A trace id and a span id, in hexadecimal."""
        at = self._at
        if at >= len(self._pool):
            self._pool = urandom(IDS_DRAWN * (TRACE_BYTES + SPAN_BYTES)).hex().encode()
            at = 0
        middle = at + 2 * TRACE_BYTES
        self._at = middle + 2 * SPAN_BYTES
        return self._pool[at:middle], self._pool[middle : self._at]


class ExpressLane:
    """Decides what is ordinary. One per data port."""

    def __init__(self, residents: Residents, door: Door, clock: Callable[[], float]) -> None:
        self.admission = Admission(residents, clock)
        self.codecs = door.codecs
        self.lending = door.lending
        self._tasks: set[asyncio.Task[None]] = set()
        self._residents = residents
        self._open = not door.access_log.enabled and door.spans is None
        self._keys = door.keys
        self._readings = 0
        """Of the API keys, that known heads were judged by."""
        self._json_bytes = min(MAX_BODY_BYTES, door.limits.json_bytes, door.limits.body_bytes)
        self._paths: dict[bytes, HotRoute | None] = {}
        """Paths as they are written → their routes, as far as they may be taken, under `_table`."""
        self._table: RouteTable | None = None
        self._heads = KnownHeads()
        self._ids = _Ids()
        self._headers: Headers | None = None
        self._lines = b""
        self._revision: LiveRevision | None = None
        self._revision_line = b""
        """The header that names the revision which answered last."""

    @property
    def is_closing(self) -> bool:
        """Whether connections end with their next answer."""
        return self._residents.drain.is_closing

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Runs what has to wait after all, to its end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def takes(self, method: bytes, path: bytes, headers: Headers) -> HotRoute | None:
        """The route of an ordinary request whose head this is, else None."""
        if not self._open or method != b"POST" or self._residents.drain.is_closing:
            return None
        if self._table is not self._residents.router.table:
            self._table = self._residents.router.table
            self._paths.clear()
            self._heads.clear()
        try:
            route = self._paths[path]
        except KeyError:
            route = self._look_up(path)
        if route is None or not self._is_ordinary(route, headers):
            return None
        return route if self._keys is None or self._has_key(self._keys, headers) else None

    def takes_again(self, data: bytes) -> tuple[HotRoute, bytes] | None:
        """Route and body where `data`, which begins where a request does, is one that was taken with the same head."""
        if self._table is not self._residents.router.table or self._residents.drain.is_closing:
            return None
        if self._keys is not None and self._keys.readings() != self._readings:
            return None
        return self._heads.find(data)

    def learn(self, data: bytes, route: HotRoute, headers: Headers) -> None:
        """`data`, which begins where a request does, ended one that was taken and leaves its connection open."""
        length = 0
        for name, value in headers:
            if name == REQUEST_ID_FIELD:  # of one request alone
                return
            if name == b"content-length":
                length = int(value)
        self._heads.learn(data, route, length)

    def request(self, line: Line, route: HotRoute, headers: Headers) -> ExpressRequest:
        """Admits a request that was taken. `headers`: those that may name it."""
        trace_id, span_id = self._ids.draw()
        request_id = trace_id
        for name, value in headers:
            if name == REQUEST_ID_FIELD and REQUEST_ID.match(value):
                request_id = value
        ids = b"%b: %b\r\ntraceparent: 00-%b-%b-00\r\n" % (REQUEST_ID_FIELD, request_id, trace_id, span_id)
        return ExpressRequest(self, line, route, self.admission.enter(), request_id.decode(), ids)

    def head(self, answer: Answer, ids: bytes, revision: LiveRevision | None) -> bytes:
        """Status line and headers of an answer, without the empty line that ends them."""
        if revision is not self._revision:
            self._revision = revision
            self._revision_line = b"" if revision is None else b"%b: %b\r\n" % (REVISION_FIELD, revision.name.encode())
        status, kind = STATUS_LINE[answer.status], answer.content_type
        line = self._revision_line
        if answer.headers:
            line = b"".join((*[b"%b: %b\r\n" % pair for pair in answer.headers], line))
        return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b" % (status, kind, answer.nbytes, ids, line)

    def lines_of(self, headers: Headers) -> bytes:
        """Headers as they are written; remembered for the list that was given last."""
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return self._lines

    def _has_key(self, keys: ApiKeys, headers: Headers) -> bool:
        """Whether the request carries a known key, in one header."""
        given = [header for header in headers if header[0] in KEY_FIELDS]
        if len(given) != 1:
            return False
        if (readings := keys.readings()) != self._readings:
            self._readings = readings
            self._heads.clear()
        try:
            keys.name_of(dict(given))
        except UnauthorizedError:  # answered on the usual way
            return False
        return True

    def _is_ordinary(self, route: HotRoute, headers: Headers) -> bool:
        length = None
        for name, value in headers:
            if name in NOT_ORDINARY:
                return False
            if name == b"accept" and value not in ANY_JSON:
                return False
            if name == b"content-type" and value != JSON and route.form is not RouteForm.INFER:
                return False
            if name == b"content-length":
                length = value
        return length is not None and length.isdigit() and len(length) < 10 and int(length) <= self._json_bytes

    def _look_up(self, path: bytes) -> HotRoute | None:
        plain = b"%" not in path and b"?" not in path and path.isascii()
        route = HotRoute.of(path.decode()) if plain else None
        if route is not None and not (route.form in TAKEN_FORMS and _is_one_model(self._find(route))):
            route = None
        if len(self._paths) < PATHS_KEPT:
            self._paths[path] = route
        return route

    def _find(self, route: HotRoute) -> Route | None:
        routes = self._residents.router.table.routes
        return next((found for kind in route.kinds if (found := routes.get((kind, route.name)))), None)


def _is_one_model(route: Route | None) -> bool:
    return route is not None and bool(route.loaded) and all(revision.spec.graph is None for revision in route.loaded)
