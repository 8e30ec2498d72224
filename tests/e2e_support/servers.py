"""HTTP servers on loopback that misbehave on purpose, each in one named way."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Handler = Callable[[int, int, asyncio.StreamWriter], Awaitable[bool]]
"""Gets the request's number, its place on the connection (from 0) and the writer; returns whether to keep alive."""


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A server on a free loopback port whose answers `handler` writes; yields the port."""
    writers: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        place = 0
        try:
            while True:
                number = await _number(reader)
                if not await handler(number, place, writer):
                    break
                await writer.drain()
                place += 1
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            writers.discard(writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in list(writers):
            writer.close()
        await server.wait_closed()


async def _number(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length"))
    return int(json.loads(await reader.readexactly(length))["x"])


def answer(value: float, revision: str = "one", status: int = 200, headers: str = "") -> bytes:
    """A complete answer that carries `value`."""
    body = json.dumps({"y": value}).encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\npodium-revision: {revision}\r\n{headers}\r\n"
    return head.encode() + body


def reset(writer: asyncio.StreamWriter) -> None:
    """Abort the connection with a TCP reset."""
    import socket

    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
