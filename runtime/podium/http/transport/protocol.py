"""The connection: uvicorn's httptools protocol with bounds on what a peer may send and how slowly.

llhttp refuses Content-Length with Transfer-Encoding, a Content-Length given twice, folded headers and bare line feeds.
What it does not bound is bounded here: the head, trailers, chunks, connections, and the time without progress.
"""

from collections.abc import Sequence

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from podium.http.transport.asgi import ABORT, BODY, WHOLE, Headers, Piece, Send, error_answer
from podium.http.transport.body_line import BodyLine
from podium.http.transport.errors import ErrorAnswer
from podium.http.transport.limits import (
    HEAD_TIMEOUT_S,
    MAX_CHUNKS,
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_URL_BYTES,
    MIN_BODY_RATE,
    SEND_GRACE_S,
)
from podium.telemetry.logging import get_logger

log = get_logger(__name__)

INVALID = ErrorAnswer(400, "bad_request", "this is not a valid HTTP/1.1 request")
HEAD_TOO_LARGE = ErrorAnswer(
    431, "head_too_large", f"expected at most {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes of them"
)
URL_TOO_LONG = ErrorAnswer(414, "url_too_long", f"expected a URL of at most {MAX_URL_BYTES} bytes")
TOO_MANY_CHUNKS = ErrorAnswer(
    413, "too_large", f"a body of more than {MAX_CHUNKS} chunks; send larger ones, or a Content-Length"
)
UNKNOWN_CODING = ErrorAnswer(501, "unsupported_encoding", "expected no Transfer-Encoding but chunked")
HEAD_TIMEOUT = ErrorAnswer(408, "head_timeout", f"the head of the request did not come in within {HEAD_TIMEOUT_S:g} s")
TOO_MANY_CONNECTIONS = ErrorAnswer(
    503, "overloaded", f"{MAX_CONNECTIONS} connections are open; close some, or ask another replica", 1.0
)
HEAD_END = b"\r\n\r\n"
SPLIT_BYTES = 16 << 10
"""Data above this is cut behind the head, so that a body that comes with it is not copied by the parser."""


class RefusedError(Exception):
    """Ends the parsing of a connection; the answer is kept beside it, since the parser replaces the exception."""


class BoundedProtocol(BodyLine):
    """One connection of a client."""

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def]
        """Takes the connection in, or says at once that there are too many."""
        super().connection_made(transport)
        self._refusal = INVALID
        self._in_head = True
        self._headers_seen = 0
        self._chunks = 0
        self._quiet_bytes = 0
        """Bytes since the parser last finished a head or passed on a piece of a body."""
        self._stalled: tuple[object, float] | None = None
        self._extensions = {ABORT: transport.abort, BODY: self.claim, WHOLE: self.answer_whole}
        self._sending: tuple[float, int] | None = None
        """Since when parts of an answer are on their way, and how many bytes were unsent then."""
        self._arm_keep_alive()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(TOO_MANY_CONNECTIONS)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, but for bodies that it has nothing to find in."""
        self._unset_keepalive_if_required()
        if self.is_raw:
            self.take_raw(memoryview(data))
            return
        end = data.find(HEAD_END) + len(HEAD_END) if self._in_head and len(data) > SPLIT_BYTES else 0
        if end <= len(HEAD_END):
            if self._feed(data):
                self.turn_raw()
            return
        window = memoryview(data)
        if not self._feed(window[:end]):
            return
        if self.turn_raw():
            self.take_raw(window[end:])
        elif self._feed(window[end:]):
            self.turn_raw()

    def _feed(self, data: bytes | memoryview) -> bool:
        """Whatever the parser does not take is answered once, and the connection closed: False."""
        self._quiet_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self.cycle is not None:
                self.cycle.keep_alive = False  # answered as if nothing had been said of an upgrade, which ends it
        except httptools.HttpParserError:
            self._refuse(self._refusal)
            return False
        if self._quiet_bytes > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE)
            return False
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        self._in_head = True
        self._headers_seen = 0
        self._chunks = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the URL."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._stop(URL_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the body, a trailer, which is dropped: headers were judged when the head was complete."""
        self._headers_seen += 1
        if self._headers_seen > MAX_HEADERS:
            self._stop(HEAD_TOO_LARGE)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: the application begins."""
        self._quiet_bytes = 0
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                self._stop(UNKNOWN_CODING)
        super().on_headers_complete()
        self._in_head = False
        self.offer_body()

    def on_chunk_header(self) -> None:
        """A chunk begins; each costs as much as a header, however small it is."""
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            self._stop(TOO_MANY_CHUNKS)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._quiet_bytes = 0
        self.take_parsed(body)

    def on_message_complete(self) -> None:
        """The request is there; what comes next is a head."""
        self._quiet_bytes = 0
        self._in_head = True
        super().on_message_complete()
        self.end_body()

    def expire(self, now: float) -> None:
        """Ends a connection that has begun a request, or trickles on after one, and does not get on. Called every
        second or so; nothing on the way of a request has to keep time for it."""
        self._cut_slow_reader(now)
        answered = self.cycle is None or self.cycle.response_complete
        if not answered or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            self._stalled = None
        elif self._stalled is None or self._stalled[0] is not self.cycle:
            self._stalled = (self.cycle, now)
        elif now - self._stalled[1] >= HEAD_TIMEOUT_S:
            self._refuse(HEAD_TIMEOUT)

    def answer_whole(self, send: Send, status: int, headers: Headers, pieces: Sequence[Piece]) -> bool:
        """See podium.http.transport.asgi.Whole."""
        cycle = getattr(send, "__self__", None)
        if not isinstance(cycle, RequestResponseCycle) or cycle.response_started or self.flow.write_paused:
            return False
        if self.transport.is_closing():
            return False
        keep_alive = cycle.keep_alive and (b"connection", b"close") not in headers
        lines = [*cycle.default_headers, *(header for header in headers if header[0] != b"connection")]
        if not keep_alive:
            lines.append((b"connection", b"close"))
        head = b"".join([STATUS_LINE[status], *(b"%b: %b\r\n" % line for line in lines), b"\r\n"])
        self.write_pieces((head, *pieces))
        cycle.keep_alive = keep_alive
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        if not keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def write_pieces(self, pieces: Sequence[Piece]) -> None:
        """Writes them in one go; the transport refers to them until they have left."""
        self.transport.writelines(pieces)
        self._sending = (self.loop.time(), self._unsent())

    def _unsent(self) -> int:
        return int(self.transport.get_write_buffer_size())

    def _cut_slow_reader(self, now: float) -> None:
        """Ends a connection whose client holds shared memory by not reading what is sent from there."""
        if self._sending is None:
            return
        since, unsent = self._sending
        left = self._unsent()
        if not left:
            self._sending = None
        elif now - since > SEND_GRACE_S + (unsent - left) / MIN_BODY_RATE:
            log.info("slow_reader_cut", unsent_bytes=left)
            self.transport.abort()

    def _arm_keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _stop(self, answer: ErrorAnswer) -> None:
        self._refusal = answer
        raise RefusedError(answer.message)

    def _refuse(self, answer: ErrorAnswer) -> None:
        """Answers where the client will take it for the answer to what it sent, and closes the connection in any case:
        not in the middle of another answer, before one that is owed, or after the one to a body still coming in."""
        log.debug("connection_refused", code=answer.code)
        self._unset_keepalive_if_required()
        cycle = self.cycle
        owed = cycle is not None and not cycle.response_complete
        reads_its_body = owed and cycle.more_body and not cycle.response_started and not self.pipeline
        if reads_its_body or (self._in_head and not owed):
            self.transport.write(_written(answer))
        if owed:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


def _written(answer: ErrorAnswer) -> bytes:
    made = error_answer(answer, "", plain=False)
    headers: Headers = [
        (b"content-type", made.content_type),
        (b"content-length", str(len(made.body)).encode()),
        (b"connection", b"close"),
        *made.headers,
    ]
    return STATUS_LINE[made.status] + b"".join(b"%b: %b\r\n" % pair for pair in headers) + b"\r\n" + made.body
