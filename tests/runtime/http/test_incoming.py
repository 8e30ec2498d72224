"""Bodies that a connection writes into given memory, on both event loops that a pod may run on."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from podium.http.inference.server import QuietServer, bind
from podium.http.transport.incoming import Incoming

MIB = 1 << 20
BODY = bytes(range(256)) * (3 * MIB // 256)
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ninference-header-content-length: 1\r\ncontent-length: %d\r\n\r\n"

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], work: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work())


@contextlib.asynccontextmanager
async def serving(app: Callable[[Incoming], Awaitable[bytes]]) -> AsyncIterator[socket.socket]:
    """A client of a server whose application claims its bodies, and answers 200 with what `app` returns."""

    async def answered(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        incoming = scope["extensions"]["podium.body"](receive)
        assert isinstance(incoming, Incoming)
        body = await app(incoming)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    server = QuietServer(answered, bind("127.0.0.1", 0))
    await server.open()
    client = socket.create_connection(("127.0.0.1", server.port))
    client.setblocking(False)
    try:
        yield client
    finally:
        client.close()
        await server.close(1)


async def answer_of(client: socket.socket) -> bytes:
    loop, got = asyncio.get_running_loop(), b""
    async with asyncio.timeout(30):
        while b"\r\n\r\n" not in got or b"." not in got.partition(b"\r\n\r\n")[2]:
            got += await loop.sock_recv(client, 4096)
    return got.partition(b"\r\n\r\n")[2]


@LOOPS
@pytest.mark.parametrize("sizes", [(3 * MIB,), (1, 100, 4096, MIB, 2 * MIB), (MIB, MIB)])
def test_targets_are_filled_one_after_the_other(
    new_loop: Callable[[], asyncio.AbstractEventLoop], sizes: tuple[int, ...]
) -> None:
    async def work() -> None:
        seen: list[int] = []

        async def app(incoming: Incoming) -> bytes:
            filled = b""
            for size in sizes:
                target = bytearray(size)
                count = await incoming.fill(memoryview(target), seen.append)
                filled += target[:count]
            whole = BODY[: sum(sizes)]
            assert sum(seen) == len(filled)
            return b"right." if filled == whole and incoming.copied_bytes <= 256 << 10 else b"wrong."

        async with serving(app) as client:
            loop = asyncio.get_running_loop()
            for _ in range(2):  # what an application leaves is read over
                seen.clear()
                await loop.sock_sendall(client, HEAD % len(BODY) + BODY)
                assert await answer_of(client) == b"right."

    run(new_loop, work)


@LOOPS
def test_a_reader_that_gives_up_finds_its_memory_as_it_left_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        target, has_begun = bytearray(2 * MIB), asyncio.Event()

        async def app(incoming: Incoming) -> bytes:
            filling = asyncio.create_task(incoming.fill(memoryview(target), lambda _: has_begun.set()))
            await has_begun.wait()
            filling.cancel()
            await asyncio.wait([filling])
            target[:] = bytes(len(target))
            return b"gave up."

        async with serving(app) as client:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, HEAD % len(BODY) + BODY[:MIB])
            assert await answer_of(client) == b"gave up."
            await loop.sock_sendall(client, BODY[MIB:])
            has_begun.clear()
            await loop.sock_sendall(client, HEAD % len(BODY) + BODY[:MIB])
            assert await answer_of(client) == b"gave up."
        assert not any(target)

    run(new_loop, work)


@LOOPS
def test_a_client_that_leaves_ends_the_filling(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def work() -> None:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def app(incoming: Incoming) -> bytes:
            try:
                await incoming.fill(memoryview(bytearray(len(BODY))), lambda _: None)
            except Exception as error:
                ended.set_result(type(error).__name__)
                raise
            return b"complete."

        async with serving(app) as client:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, HEAD % len(BODY) + BODY[:MIB])
            client.close()
            assert await asyncio.wait_for(ended, 30) == "ClientGoneError"

    run(new_loop, work)
