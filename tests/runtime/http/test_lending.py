"""What is sent from shared memory: kept exactly as long as somebody may read it, and not for those who do not."""

import asyncio
import socket
import threading
from collections.abc import Callable

import pytest
import uvloop

from podium.http.inference.server import QuietServer, bind
from podium.http.transport.asgi import Answer
from podium.http.transport.lending import Lending
from podium.http.transport.limits import MIN_BODY_RATE, SEND_GRACE_S
from podium.http.transport.protocol import BoundedProtocol
from podium.ipc.arena import Arena
from podium.ipc.tensor import Tensor
from podium.telemetry.counting import BodyCounts
from podium_crds.tensors import DType

MIB = 1 << 20


def an_output(arena: Arena, nbytes: int, value: int = 7) -> Tensor:
    tensor = arena.tensor(DType.UINT8, (1, nbytes))
    tensor.data[:] = bytes([value]) * nbytes
    return arena.seal(tensor)


async def all_is_free(arena: Arena) -> None:
    async with asyncio.timeout(10):
        while arena.stats().slots:  # noqa: ASYNC110 - leases have no event
            await asyncio.sleep(0)


def an_answer(*tensors: Tensor) -> Answer:
    return Answer(200, b"{}", tensors=tensors)


async def test_a_slot_is_kept_until_the_last_view_of_it_has_gone() -> None:
    arena, counts = Arena.create(8 * MIB), BodyCounts()
    lending = Lending(arena)
    output = an_output(arena, MIB)
    answer = lending.lent(an_answer(output), counts)
    output.release()
    taken = answer.parts[0][10:20]
    del answer
    assert (arena.stats().slots, lending.held_bytes) == (1, MIB)
    assert bytes(taken) == b"\7" * 10
    del taken
    assert (arena.stats().slots, lending.held_bytes) == (0, 0)
    assert (counts.out_bytes, counts.out_copies) == (MIB, 0)


async def test_pieces_keep_the_order_of_the_outputs_and_small_ones_are_joined() -> None:
    arena, counts = Arena.create(8 * MIB), BodyCounts()
    small = [Tensor(DType.UINT8, (3,), memoryview(raw)) for raw in (b"abc", b"def", b"ghi")]
    large = an_output(arena, 100_000)
    answer = Lending(arena).lent(an_answer(small[0], large, *small[1:]), counts)
    assert b"".join((answer.body, *answer.parts)) == b"{}abc" + b"\7" * 100_000 + b"defghi"
    assert len(answer.parts) == 2
    assert (counts.out_bytes, counts.out_copies, counts.out_copied_bytes) == (100_009, 3, 9)


async def test_rows_of_one_slot_are_charged_once_and_more_than_a_third_of_the_arena_is_copied() -> None:
    arena, counts = Arena.create(8 * MIB), BodyCounts()
    lending = Lending(arena)
    batch = an_output(arena, 2 * MIB)
    rows = [Tensor(DType.UINT8, (1, MIB), batch.data[at : at + MIB], batch.lease) for at in (0, MIB)]
    first = lending.lent(an_answer(*rows), counts)
    assert lending.held_bytes == 2 * MIB
    other = an_output(arena, MIB, 9)
    second = lending.lent(an_answer(other), counts)
    other.release()
    assert (second.body, second.parts) == (b"{}" + b"\x09" * MIB, ())
    assert (counts.out_copies, counts.out_copied_bytes) == (1, MIB)
    batch.release()
    assert arena.stats().slots == 1
    del first
    assert arena.stats().slots == 0


async def test_a_view_that_ends_in_another_thread_is_given_back_by_the_loop() -> None:
    arena = Arena.create(8 * MIB)
    output = an_output(arena, MIB)
    kept = [Lending(arena).lent(an_answer(output), BodyCounts())]
    output.release()
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    await all_is_free(arena)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_reader_that_stops_is_cut_and_a_steady_one_is_not(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve_one_that_stops())


async def _serve_one_that_stops() -> None:
    arena, size = Arena.create(96 * MIB), 24 * MIB
    lending = Lending(arena)

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        output = an_output(arena, size)
        answer = lending.lent(an_answer(output), BodyCounts())
        output.release()
        pieces = (answer.body, *answer.parts)
        assert scope["extensions"]["podium.whole"](send, 200, [(b"content-length", b"%d" % answer.nbytes)], pieces)

    server = QuietServer(app, bind("127.0.0.1", 0))
    await server.open()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", server.port))
    await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await loop.sock_recv(client, 15)) == b"HTTP/1.1 200 OK"
    (connection,) = server.server_state.connections
    assert isinstance(connection, BoundedProtocol)
    began = loop.time()
    connection.expire(began + SEND_GRACE_S - 1)
    assert not connection.transport.is_closing()
    got = 0
    while got < 8 * MIB:
        got += len(await loop.sock_recv(client, MIB))
    connection.expire(began + SEND_GRACE_S + 4 * MIB / MIN_BODY_RATE)
    assert not connection.transport.is_closing(), "it has taken more than it had to"
    connection.expire(began + 1 + SEND_GRACE_S + size / MIN_BODY_RATE)
    assert connection.transport.is_closing()
    del connection
    await all_is_free(arena)
    assert lending.held_bytes == 0
    client.close()
    await server.close(1)
