"""The prober against servers that misbehave on purpose: what it must see, and what it must not hide."""

from __future__ import annotations

import asyncio
import json

import pytest
from e2e.probers.ledger import Entry, Ledger
from e2e.probers.load import NUMBER, Load, Sender
from tests.e2e_support.servers import answer, reset, serving

BODY = json.dumps({"x": NUMBER}).replace(f'"{NUMBER}"', NUMBER)


def number(body: str) -> float:
    return float(json.loads(body)["y"])


async def probed(port: int, count: int, **changes: object) -> Ledger:
    """The books after at least `count` requests have their outcome."""
    settings: dict[str, object] = {"rate_per_s": 200.0, "clients": 4, "timeout_s": 5.0} | changes
    load = Load(host="127.0.0.1", port=port, path="/", body=BODY, **settings)  # type: ignore[arg-type]
    ledger = Ledger()
    enough = asyncio.Event()

    def keep(entry: Entry) -> None:
        ledger.entries.append(entry)
        if len(ledger.entries) >= count:
            enough.set()

    sender = Sender(load, keep)
    running = asyncio.create_task(sender.run())
    async with asyncio.timeout(30):
        await enough.wait()
        sender.stop()
        ledger.summary = await running
    return ledger


async def test_a_good_server_gets_a_clean_ledger_over_few_connections() -> None:
    async def good(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer(x * 2))
        return True

    async with serving(good) as port:
        ledger = await probed(port, 40)
    assert ledger.failed == []
    assert ledger.lost == 0
    assert ledger.mismatched(number, {"one": 2}) == []
    assert ledger.by_revision() == {"one": len(ledger.entries)}
    assert ledger.summary is not None
    assert ledger.summary.connections < len(ledger.entries)


async def test_a_reset_after_the_request_is_a_failure_and_is_sent_once() -> None:
    received: list[int] = []

    async def resets_every_third(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        received.append(x)
        if x % 3 == 0:
            reset(writer)
            return False
        writer.write(answer(x))
        return True

    async with serving(resets_every_third) as port:
        ledger = await probed(port, 30)
    assert {entry.number for entry in ledger.failed} == {x for x in received if x % 3 == 0}
    assert all(entry.error is not None and entry.error.startswith("reset") for entry in ledger.failed)
    assert len(received) == len(set(received))


async def test_a_connection_closed_in_the_middle_of_an_answer_is_a_failure() -> None:
    async def cuts(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer(x)[:-3])
        return False

    async with serving(cuts) as port:
        ledger = await probed(port, 8)
    assert len(ledger.failed) == len(ledger.entries)
    assert set(ledger.by_outcome()) == {"reset"}


async def test_a_server_that_closes_idle_connections_in_order_costs_no_request() -> None:
    async def closes_after_answer(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer(x))
        await writer.drain()
        return False

    async with serving(closes_after_answer) as port:
        # One request at a time, far apart: the end of the connection is heard before the next request.
        ledger = await probed(port, 6, rate_per_s=20.0, clients=1)
    assert ledger.failed == []
    assert ledger.summary is not None
    assert ledger.summary.connections == ledger.summary.sent


async def test_connection_close_is_obeyed() -> None:
    places: list[int] = []

    async def says_close(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        places.append(place)
        writer.write(answer(x, headers="Connection: close\r\n"))
        return True

    async with serving(says_close) as port:
        ledger = await probed(port, 10)
    assert ledger.failed == []
    assert set(places) == {0}


async def test_a_503_is_a_failure_and_keeps_its_retry_after() -> None:
    async def overloaded(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer(x, status=503, headers="Retry-After: 1\r\n"))
        return True

    async with serving(overloaded) as port:
        ledger = await probed(port, 5)
    assert ledger.by_outcome() == {"503": len(ledger.entries)}
    assert {entry.retry_after for entry in ledger.failed} == {"1"}


async def test_no_answer_in_time_is_a_failure() -> None:
    async def silent(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        return True

    async with serving(silent) as port:
        ledger = await probed(port, 4, timeout_s=0.2)
    assert set(ledger.by_outcome()) == {"timeout"}
    assert ledger.lost == 0


async def test_nobody_listening_is_a_failure() -> None:
    async def never(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        return False

    async with serving(never) as port:
        pass
    ledger = await probed(port, 4)
    assert set(ledger.by_outcome()) == {"connect"}


async def test_a_body_that_contradicts_its_revision_is_a_mismatch() -> None:
    async def swaps_bodies(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer(x * 3 if x % 2 else x * 2, revision="one"))
        return True

    async with serving(swaps_bodies) as port:
        ledger = await probed(port, 10)
    assert ledger.failed == []
    wrong = ledger.mismatched(number, {"one": 2, "two": 3})
    assert {entry.number for entry in wrong} == {e.number for e in ledger.entries if e.number % 2}


@pytest.mark.parametrize("body", ["", "[]", '{"y": "none"}', '{"z": 1}', '{"y": null}'])
def test_a_body_without_the_number_is_a_mismatch(body: str) -> None:
    entry = Entry(number=1, client="c", kind="request", sent_at=0, done_at=1, status=200, revision="one", body=body)
    assert Ledger([entry]).mismatched(number, {"one": 1}) == [entry]


async def test_a_slow_server_does_not_slow_the_open_loop() -> None:
    release = asyncio.Event()
    waiting: set[int] = set()

    async def slow(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        waiting.add(x)
        if len(waiting) >= 12:
            release.set()
        await release.wait()
        writer.write(answer(x))
        return True

    async with serving(slow) as port:
        # Twelve requests of two clients are open at once before the first is answered.
        ledger = await probed(port, 12, clients=2)
    assert ledger.failed == []
    assert ledger.lost == 0


async def test_long_clients_never_pause_and_are_told_apart() -> None:
    async def good(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer(x))
        return True

    async with serving(good) as port:
        ledger = await probed(port, 100, rate_per_s=10.0, clients=1, long_body=BODY, long_clients=2)
    assert len(ledger.of("long").entries) > len(ledger.of("request").entries)
    assert len({entry.number for entry in ledger.entries}) == len(ledger.entries)


async def test_chunked_answers_are_read_whole() -> None:
    async def chunked(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        body = json.dumps({"y": x}).encode()
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\npodium-revision: one\r\n\r\n"
        parts = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in body)
        writer.write(head + parts + b"0\r\n\r\n")
        return True

    async with serving(chunked) as port:
        ledger = await probed(port, 4)
    assert ledger.mismatched(number, {"one": 1}) == []
    assert ledger.failed == []
