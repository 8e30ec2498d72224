"""The connection of the data port: what is ordinary takes the express lane, the rest goes on to ASGI."""

from collections.abc import Sequence
from typing import Any

from podium.http.inference.express import ExpressLane, ExpressRequest, Headers
from podium.http.inference.routes import HotRoute
from podium.http.transport.asgi import Piece
from podium.http.transport.limits import MAX_HEADERS
from podium.http.transport.protocol import HEAD_TOO_LARGE, BoundedProtocol


class ExpressCycle:
    """One request on the express lane, in the place that uvicorn keeps for its own request under way."""

    __slots__ = ("disconnected", "keep_alive", "more_body", "protocol", "request", "response_complete")

    def __init__(self, protocol: "ExpressProtocol", *, keep_alive: bool) -> None:
        self.protocol = protocol
        self.keep_alive = keep_alive
        self.disconnected = False
        self.more_body = False
        self.response_complete = False
        self.request: ExpressRequest | None = None

    @property
    def response_started(self) -> bool:
        """An answer is written in one go."""
        return self.response_complete

    @property
    def message_event(self) -> "ExpressCycle":
        """What uvicorn sets when the client has gone, or sends more."""
        return self

    def set(self) -> None:
        """See `message_event`."""
        if self.disconnected and not self.response_complete:
            self.response_complete = True
            if self.request is not None:
                self.request.cancel()

    def answer(self, head: bytes, body: bytes, parts: Sequence[Piece], *, close: bool) -> None:
        """See podium.http.inference.express.Line."""
        self.response_complete = True
        self.request = None  # it refers back to this object
        transport = self.protocol.transport
        if self.disconnected or transport.is_closing():
            return
        ending = b"connection: close\r\n" if close or not self.keep_alive else b""
        first = b"%b%b%b\r\n%b" % (head, self.protocol.default_lines(), ending, body)
        if parts:
            self.protocol.write_pieces((first, *parts))
        else:
            transport.write(first)
        if ending:
            transport.close()
        self.protocol.on_express_complete()


class _Swept:
    """Stands for a keep-alive timer: idle connections are found by the sweep, so that no request pays for a timer."""

    def cancel(self) -> None:
        """There is nothing to cancel."""


SWEPT: Any = _Swept()


class ExpressProtocol(BoundedProtocol):
    """One connection of a client."""

    def __init__(self, lane: ExpressLane, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._lane = lane
        self._taken: HotRoute | None = None
        """Route of the request that is coming in, if the lane takes it."""
        self._pieces: list[bytes] = []
        self._is_between = True
        """Whether the next byte is the first of a request."""
        self._completed: HotRoute | None = None
        """Route of the last request that the lane took, where its connection stays open."""
        self._under_way: ExpressCycle | None = None
        self._idle_since = 0.0

    def data_received(self, data: bytes) -> None:
        """Feeds the parser. A body that does not come with its head is waited for in the usual way."""
        if self._is_between:
            known = self._lane.takes_again(data)
            if known is not None and self._is_free():
                if self.timeout_keep_alive_task is SWEPT:
                    self.timeout_keep_alive_task = None
                else:
                    self._unset_keepalive_if_required()
                self._begin(known[0], (), known[1], keep_alive=True)
                return
            self._completed = None
            super().data_received(data)
            if self._completed is not None and self._is_between:
                self._lane.learn(data, self._completed, self.headers)
        else:
            super().data_received(data)
        if self._taken is not None and not self.transport.is_closing():
            self._taken = None
            self._begin_usual()
            for piece in self._pieces:
                super().on_body(piece)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone; nobody reads the answer to what it asked."""
        super().connection_lost(exc)
        if self._under_way is not None:  # uvicorn tells the latest request alone
            self._under_way.disconnected = True
            self._under_way.set()

    def on_message_begin(self) -> None:
        """A request begins. What only ASGI needs is made once it is known to go that way."""
        self.url = b""
        self.headers = []
        self._is_between = False
        self._in_head = True
        self._headers_seen = 0
        self._chunks = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if not self._in_head:
            super().on_header(name, value)
            return
        self.headers.append((name.lower(), value))
        if len(self.headers) > MAX_HEADERS:
            self._stop(HEAD_TOO_LARGE)

    def _begin_usual(self) -> None:
        """Hands the head over to ASGI."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self._headers_seen = len(headers)
        self.headers += headers  # the list that the scope holds
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        super().on_headers_complete()

    def on_headers_complete(self) -> None:
        """The head is there: which way does the request go?"""
        if self._is_free():
            parser = self.parser
            if parser.get_http_version() == "1.1":
                self._taken = self._lane.takes(parser.get_method(), self.url, self.headers)
                if self._taken is not None:
                    self._in_head = False
                    self._quiet_bytes = 0
                    self._pieces = []
                    return
        self._begin_usual()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if self._taken is None:
            super().on_body(body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        keep_alive = self._is_between = self.parser.should_keep_alive()
        route = self._taken
        if route is None:
            super().on_message_complete()
            return
        self._taken = None
        self._quiet_bytes = 0
        self._in_head = True
        self._completed = route if keep_alive else None
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._begin(route, self.headers, body, keep_alive=keep_alive)

    def _is_free(self) -> bool:
        """Whether an answer could be written now: none is owed, none is on its way too slowly."""
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and not self.flow.write_paused and not self.pipeline

    def _begin(self, route: HotRoute, headers: Headers, body: bytes, *, keep_alive: bool) -> None:
        """A request for the lane is there."""
        cycle: Any = ExpressCycle(self, keep_alive=keep_alive)
        self.cycle = self._under_way = cycle
        cycle.request = self._lane.request(cycle, route, headers)
        cycle.request.begin(body)

    def default_lines(self) -> bytes:
        """The headers of every answer, which uvicorn makes anew each second: the date."""
        return self._lane.lines_of(self.server_state.default_headers)

    def on_express_complete(self) -> None:
        """An answer of the lane has been written."""
        self._under_way = None
        if self.pipeline or self.flow.read_paused:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._idle_since = self.loop.time()
        self.timeout_keep_alive_task = SWEPT

    def expire(self, now: float) -> None:
        """Called every second or so: ends what does not get on, and what has been idle for too long."""
        if self.timeout_keep_alive_task is SWEPT and now - self._idle_since > self.timeout_keep_alive:
            self.timeout_keep_alive_handler()
            return
        super().expire(now)
