"""A connection that takes its bodies apart from the parser where it can: see podium.http.transport.incoming.

A body of known length is framed here, from its first byte or from where the parser has come, by counting; the request
after it gets a parser of its own. Whoever reads a body through ASGI's `receive` finds it there as ever.
"""

from functools import partial

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from podium.http.transport.asgi import JSON, Receive
from podium.http.transport.incoming import READ_AT_ONCE, HoldingFlow, Incoming, StraightIn

RAW_TENSORS = b"inference-header-content-length"
"""The request header that says that raw tensors come."""


class BodyLine(HttpToolsProtocol):
    """One connection of a client."""

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def]
        """Takes the connection in."""
        super().connection_made(transport)
        self.flow = HoldingFlow(transport, self._hand_over)
        self.raw_left = 0
        """Bytes of the body that are still to come and not for the parser."""
        self._to_parse = 0
        """Content-Length of the request that the parser is at, less what it has passed on of the body."""
        self._incoming: Incoming | None = None
        """The body that is coming in, where it is not for `receive`."""
        self._offered: Incoming | None = None
        """That of the request that is being answered, whether or not all of it has come."""
        self._straight: StraightIn | None = None
        self._turn_bytes = 0
        self._ignores_rest = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        if self._offered is not None:
            self._offered.lose()

    def claim(self, receive: Receive) -> Incoming | None:
        """The body that `receive` would give, for whoever claims it before it receives any of it."""
        offered = self._offered
        if offered is None or getattr(receive, "__self__", None) is not offered.cycle:
            return None
        offered.is_claimed = True
        return offered

    def offer_body(self) -> None:
        """Call when a head is complete and its cycle was made."""
        self._incoming = None
        self._to_parse = 0
        fields = dict(self.headers)
        is_raw = RAW_TENSORS in fields or fields.get(b"content-type", JSON) != JSON
        if not is_raw or self.pipeline or self.parser.should_upgrade():
            return
        self._incoming = self._offered = Incoming(self, self.cycle)
        self._to_parse = int(fields.get(b"content-length", 0))

    def turn_raw(self) -> bool:
        """Takes what is to come of the body away from the parser, where its length is known. Call between two pieces
        of data. True where the next one is for `take_raw`."""
        if self._incoming is not None and self._to_parse:
            self.raw_left, self._to_parse = self._to_parse, 0
            self.flow.pause_reading()  # until somebody wants it
        return bool(self.raw_left)

    def take_raw(self, data: memoryview) -> None:
        """More of a body that is not parsed, and perhaps the request after it."""
        piece, rest = data[: self.raw_left], data[self.raw_left :]
        self.raw_left -= piece.nbytes
        if self._incoming is None:
            super().on_body(bytes(piece))
        else:
            self._incoming.came(piece, is_cut=False)
            if self.raw_left and not self._incoming.is_wanted:
                self.flow.pause_reading()
        if not self.raw_left:
            self._end_raw()
            if rest and not self._ignores_rest:
                self.data_received(bytes(rest))

    @property
    def is_raw(self) -> bool:
        """Whether what comes next is for `take_raw`, or for nobody."""
        return self.raw_left > 0 or self._ignores_rest

    def take_parsed(self, body: bytes) -> None:
        """A piece of a body from the parser."""
        incoming = self._incoming
        if incoming is None:
            super().on_body(body)
            return
        if self._to_parse:
            self._to_parse -= len(body)
        incoming.came(memoryview(body), is_cut=True)
        if incoming.is_wanted:
            self._give_way(len(body))
        else:
            self.flow.pause_reading()

    def end_body(self) -> None:
        """Call when all of a body has come."""
        if self._incoming is not None:
            incoming, self._incoming = self._incoming, None
            incoming.end()

    def read_on(self, incoming: Incoming) -> None:
        """See podium.http.transport.incoming.Line."""
        cycle = incoming.cycle
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        if self.raw_left:
            self._straight = StraightIn(self, partial(self._room, incoming), self._written)
            self.transport.set_protocol(self._straight)
        self.flow.resume_reading()

    def read_no_more(self) -> None:
        """See podium.http.transport.incoming.Line. Also called when nothing is read."""
        if self._straight is not None:
            self._straight = None
            if not self.transport.is_closing():
                self.transport.set_protocol(self)
        if self._incoming is not None:
            self.flow.pause_reading()

    def _room(self, incoming: Incoming) -> memoryview:
        return incoming.target[: min(READ_AT_ONCE, self.raw_left)]

    def _written(self, nbytes: int) -> None:
        incoming = self._incoming
        assert incoming is not None, "a body is written straight until it ends"
        self.raw_left -= nbytes
        incoming.stored(nbytes)
        if not self.raw_left:
            self._end_raw()
        if not self.raw_left or not incoming.target:
            self.read_no_more()
        else:
            self._give_way(nbytes)

    def _end_raw(self) -> None:
        self._ignores_rest = not self.cycle.keep_alive
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.on_message_complete()

    def _give_way(self, nbytes: int) -> None:
        """Lets the loop turn to the others now and then."""
        self._turn_bytes += nbytes
        if self._turn_bytes >= READ_AT_ONCE and not self.flow.read_paused:
            self.flow.pause_reading()
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn_bytes = 0
        if self._incoming is not None and self._incoming.is_wanted:
            self.flow.resume_reading()

    def _hand_over(self) -> None:
        """Somebody wants to read on: with `receive`, unless the body has been claimed; or the answer is out."""
        offered = self._offered
        if offered is None or (offered.is_claimed and not offered.cycle.response_complete):
            return
        self._offered = self._incoming = None
        cycle = offered.cycle
        for piece in offered.hand_over():
            if not cycle.response_complete:
                cycle.body += piece
                cycle.message_event.set()
