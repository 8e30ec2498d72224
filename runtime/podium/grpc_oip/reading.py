"""Messages while they come in: counted against what bodies may hold, and refused before they are whole.

gRPC hands over a message once it is whole, and says neither how long it will be nor how much of it has come. So the
kernel is asked what has come over the connections on which a message is awaited. What came there and is in no message
that was handed over is what gRPC keeps of the messages to come.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import unquote

from podium.grpc_oip.connections import IDLE_S
from podium.grpc_oip.sockets import Sockets
from podium.http.transport.errors import BodyTimeoutError, ClientGoneError
from podium.http.transport.limits import MIN_BODY_RATE, Limits
from podium.http.transport.receiving import BodiesFullError, Receiving
from podium.ipc.protocol import INLINE_BYTES

TICK_S = 0.005
"""How often is looked. A message that comes within it costs no look."""
PREFIX_BYTES = 5
"""Of each message on the wire."""
UNKNOWN_BYTES = 64 << 10
"""What may have been handed over on a connection before its socket is looked for."""
ADVICE = "send again later, fewer large messages at a time, or ask over HTTP, which says beforehand how much comes"


class Sender(Protocol):
    """A call whose message is awaited, as gRPC has it."""

    def peer(self) -> str:
        """Which connection it came over."""

    def read(self) -> Awaitable[Any]:
        """The next message, or grpc.aio.EOF."""


class Messages:
    """Reads the messages of calls. Used from one event loop."""

    def __init__(self, receiving: Receiving, limits: Limits, longest_bytes: int, clock: Callable[[], float]) -> None:
        """`longest_bytes`: of any message, as gRPC holds it."""
        self._receiving = receiving
        self._limits = limits
        self._longest_bytes = longest_bytes
        self._clock = clock
        self._sockets = Sockets(clock)
        self._connections: dict[str, _Connection] = {}
        """By peer, the one used last at the end."""
        self._busy: dict[_Connection, None] = {}
        """Those on which a message is awaited, the one that waits longest first."""
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def held(self, call: Sender) -> AsyncIterator[bytes]:
        """The call's only message, counted until it is let go. Raises BodiesFullError where there is no room for it
        now, BodyTimeoutError where it comes too slowly, ClientGoneError where there is none."""
        connection = self._connection(unquote(call.peer()))
        message, counted = await self._read(call, connection)
        try:
            yield message
        finally:
            self._receiving.give(counted)

    async def _read(self, call: Sender, connection: "_Connection") -> tuple[bytes, int]:
        """The message, and how many bytes are counted for it."""
        reading = _Reading(self._clock())
        if not connection.readings:
            self._busy[connection] = None
            connection.begin(self._sockets)
        connection.readings[reading] = None
        self._arm()
        came = 0
        try:
            async with reading.timeout:
                message = await call.read()
            if not isinstance(message, bytes):  # grpc.aio.EOF
                raise ClientGoneError(
                    f"the call ended before its message, or that has more than {self._longest_bytes} bytes"
                )
            came = len(message) + PREFIX_BYTES
        except TimeoutError as error:
            assert reading.refused is not None, "nothing else ends the wait"
            raise reading.refused from error
        finally:
            del connection.readings[reading]
            if not connection.readings:
                del self._busy[connection]
            self._let_go(connection, came)  # also where the caller was cancelled, or the message too slow
        return message, self._counted(len(message))

    def _let_go(self, connection: "_Connection", nbytes: int) -> None:
        """Bytes that came on a connection are no longer gRPC's."""
        self._receiving.give(connection.handed_over(nbytes))
        if not connection.readings:
            self._receiving.give(connection.held)
            connection.held = 0

    def _counted(self, nbytes: int) -> int:
        """Counts a message that is whole; one that needs no slot takes no room. Raises BodiesFullError."""
        if nbytes <= INLINE_BYTES:
            return 0
        if not self._find_room(nbytes, deque(self._busy), self._clock()):
            raise self._full()
        return nbytes

    def _connection(self, peer: str) -> "_Connection":
        now = self._clock()
        found = self._connections.pop(peer, None)
        if found is None:
            found = _Connection(peer)
            self._forget(now)
        self._connections[peer] = found
        found.used = now
        return found

    def _forget(self, now: float) -> None:
        """Two that gRPC has closed: for each new one, so that there is never much to do."""
        for peer in [peer for peer, _ in zip(self._connections, range(2), strict=False)]:
            connection = self._connections[peer]
            if not connection.readings and connection.used < now - 2 * IDLE_S:
                del self._connections[peer]

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock()
        if any(self._is_sought(connection, now) for connection in self._busy):
            self._sockets.look()
        self._count(now)
        if self._busy:
            self._arm()

    def _is_sought(self, connection: "_Connection", now: float) -> bool:
        is_worth_it = connection.accounted > UNKNOWN_BYTES or connection.oldest.is_long(now)
        return is_worth_it and self._sockets.received(connection.peer) is None

    def _count(self, now: float) -> None:
        """Counts what has come since the last look, for who waits longest first. Where there is no room for it, those
        who came last make it: what they have is given up."""
        left = deque(self._busy)
        while left:
            connection = left.popleft()
            received = self._sockets.received(connection.peer)
            came = self._came(connection, received, now)
            if self._find_room(came, left, now):
                connection.held += came
                connection.accounted = connection.accounted if received is None else received
                self._check_pace(connection, now)
            elif connection.oldest.is_long(now):
                self._give_up(connection)  # else: what is not counted now is at the next look

    def _find_room(self, nbytes: int, others: "deque[_Connection]", now: float) -> bool:
        """Counts bytes as held; at the cost of the others, if it must be, the last first. They are taken out."""
        while True:
            try:
                self._receiving.take(nbytes)
            except BodiesFullError:
                if not others:
                    return False
            else:
                return True
            last = others.pop()
            if last.held and last.oldest.is_long(now):
                self._give_up(last)

    def _came(self, connection: "_Connection", received: int | None, now: float) -> int:
        if received is not None:
            return max(0, received - connection.accounted)
        # Its socket is not known: no message that does not come at once has more than the longest.
        awaited = sum(reading.is_long(now) for reading in connection.readings)
        return max(0, awaited * self._longest_bytes - connection.held)

    def _give_up(self, connection: "_Connection") -> None:
        """The message that is awaited longest there: most likely the largest."""
        self._receiving.give(connection.held)
        connection.held = 0
        connection.oldest.refuse(self._full())

    def _full(self) -> BodiesFullError:
        limit = self._receiving.limit_bytes
        return BodiesFullError(f"no room for all of this message now; bodies may hold {limit} bytes; {ADVICE}")

    def _check_pace(self, connection: "_Connection", now: float) -> None:
        oldest = connection.oldest
        if now > oldest.started + self._limits.body_grace_s + connection.held / MIN_BODY_RATE:
            slow = f"the message came in too slowly; expected {MIN_BODY_RATE} bytes/s at least"
            oldest.refuse(BodyTimeoutError(slow))


class _Connection:
    """What is known of one."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.used = 0.0
        self.readings: dict[_Reading, None] = {}
        """Whose messages are awaited, the oldest first."""
        self.accounted = 0
        """Bytes received that are counted already, or were handed over."""
        self.held = 0
        """Bytes counted as held: they came, and were not handed over."""

    @property
    def oldest(self) -> "_Reading":
        return next(iter(self.readings))

    def begin(self, sockets: Sockets) -> None:
        """No message was awaited: what came before belongs to none, where that is known."""
        received = sockets.received(self.peer)
        if received is not None:
            self.accounted = received

    def handed_over(self, nbytes: int) -> int:
        """A message was; returns how many bytes need not be held any more."""
        let_go = min(nbytes, self.held)
        self.held -= let_go
        self.accounted += nbytes - let_go
        return let_go


class _Reading:
    """One message that is awaited."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.timeout = asyncio.timeout(None)
        self.refused: Exception | None = None

    def is_long(self, now: float) -> bool:
        """Whether it did not come at once."""
        return now - self.started >= TICK_S

    def refuse(self, error: Exception) -> None:
        """Ends the wait."""
        if self.refused is None:
            self.refused = error
            self.timeout.reschedule(asyncio.get_running_loop().time())
