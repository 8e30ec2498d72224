"""An HTTP/1.1 client that hides nothing: no retries, no redirects, no proxies, and every failure named.

A connection that the server has closed before a request is sent on it is replaced, as any pool does. Once the first
byte of a request may have left, whatever happens to it is that request's outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_BODY = 4 * 1024 * 1024
_MAX_LINE = 64 * 1024


class RequestError(Exception):
    """No complete answer came back. `kind` says how it ended: connect, reset, timeout or malformed."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the server asked for this connection to end here."""
        return self.headers.get("connection", "").lower() == "close"


@dataclass(frozen=True, slots=True)
class Request:
    """A POST of a JSON body."""

    path: str
    body: bytes

    def encode(self, host: str) -> bytes:
        """The bytes on the wire."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode("ascii") + self.body


class Connection:
    """One open TCP connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect, or raise RequestError of kind `connect`."""
        try:
            return cls(*await asyncio.open_connection(host, port, limit=_MAX_LINE))
        except OSError as exc:
            raise RequestError("connect", str(exc)) from exc

    @property
    def closed_by_peer(self) -> bool:
        """Whether the server has ended this connection, as far as this side has heard."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def exchange(self, payload: bytes) -> Answer:
        """Send one request and read its answer, or raise RequestError."""
        try:
            self._writer.write(payload)
            await self._writer.drain()
            return await _read_answer(self._reader)
        except asyncio.IncompleteReadError as exc:
            raise RequestError("reset", f"closed after {len(exc.partial)} bytes of an answer") from exc
        except OSError as exc:
            raise RequestError("reset", str(exc) or type(exc).__name__) from exc
        except (ValueError, asyncio.LimitOverrunError) as exc:
            raise RequestError("malformed", str(exc)) from exc

    async def close(self) -> None:
        """End the connection; never raises."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@dataclass(slots=True)
class Client:
    """A user's client: idle connections are used again, the latest first; a new one opens where none is idle."""

    host: str
    port: int
    timeout_s: float
    connections: int = 0
    """How many connections were opened so far."""
    _idle: list[Connection] = field(default_factory=list)

    async def send(self, request: Request) -> Answer:
        """One request, one outcome: an answer of whatever status, or RequestError."""
        connection: Connection | None = None
        reusable = False
        try:
            async with asyncio.timeout(self.timeout_s):
                connection = await self._connection()
                answer = await connection.exchange(request.encode(self.host))
        except TimeoutError as exc:
            stage = "connecting" if connection is None else "waiting for the answer"
            raise RequestError("timeout", f"{self.timeout_s:g} s {stage}") from exc
        else:
            reusable = not answer.closes
            return answer
        finally:
            if connection is not None:
                if reusable:
                    self._idle.append(connection)
                else:
                    await connection.close()

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().close()

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed_by_peer:
                return connection
            await connection.close()
        self.connections += 1
        return await Connection.open(self.host, self.port)


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    status_line = await _line(reader)
    parts = status_line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1."):
        raise ValueError(f"no status line: {status_line[:80]!r}")
    status = int(parts[1])
    headers: dict[str, str] = {}
    while line := await _line(reader):
        name, colon, value = line.partition(":")
        if not colon or len(headers) > 200:
            raise ValueError(f"no header: {line[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    return Answer(status, headers, await _body(reader, headers))


async def _line(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n"))[:-2].decode("latin-1")


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _chunks(reader)
    if "content-length" not in headers:
        raise ValueError("an answer of unknown length")
    length = int(headers["content-length"])
    if not 0 <= length <= MAX_BODY:
        raise ValueError(f"an answer of {length} bytes")
    return await reader.readexactly(length)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await _line(reader)).partition(";")[0], 16):
        if len(body) + size > MAX_BODY:
            raise ValueError("an answer longer than the prober reads")
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await _line(reader):
        pass
    return bytes(body)
