"""Streams in the prober: whole ones count as answers, broken ones as failures although their status was 200."""

from __future__ import annotations

import asyncio
import json

import pytest
from e2e.probers.events import broken, events
from e2e.probers.http1 import Answer
from e2e.probers.ledger import Entry
from e2e.probers.load import NUMBER, Load, Sender
from e2e.support import oip
from tests.e2e_support.servers import serving


def chunk(value: float) -> str:
    return f"data: {json.dumps({'outputs': {'y': {'dtype': 'FP32', 'shape': [1, 1], 'data': [[value]]}}})}\n\n"


def end(chunks: int) -> str:
    return f"event: end\ndata: {json.dumps({'chunks': chunks})}\n\n"


def streamed(text: str) -> Answer:
    return Answer(200, {"content-type": "text/event-stream"}, text.encode())


def test_a_whole_stream_is_not_broken_and_carries_one_number() -> None:
    text = chunk(6) + ": keep-alive\n\n" + chunk(6) + end(2)
    assert broken(streamed(text)) is None
    assert oip.number(text) == 6
    assert [event.name for event in events(text)] == ["", "", "end"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        chunk(6),
        chunk(6) + end(2),
        chunk(6) + 'event: error\ndata: {"error": {"code": "worker_died"}}\n\n',
        chunk(6) + end(1) + chunk(6),
    ],
    ids=["nothing", "no end", "a chunk lost", "an error", "something after the end"],
)
def test_a_stream_that_is_not_whole_is_broken(text: str) -> None:
    said = broken(streamed(text))
    assert said is not None
    assert said.startswith("stream: ")


def test_another_answer_is_no_stream() -> None:
    assert broken(Answer(200, {"content-type": "application/json"}, b"{}")) is None


def test_chunks_of_two_revisions_in_one_stream_are_no_number() -> None:
    with pytest.raises(ValueError, match="carry"):
        oip.number(chunk(6) + chunk(9) + end(2))


@pytest.mark.parametrize(("said", "kept"), [(end(2), None), ("", "stream")], ids=["whole", "cut"])
async def test_the_prober_books_a_broken_stream_as_a_failure(said: str, kept: str | None) -> None:
    async def streams(x: int, place: int, writer: asyncio.StreamWriter) -> bool:
        body = (chunk(x) + chunk(x) + said).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return True

    entries: list[Entry] = []
    async with serving(streams) as port:
        body = json.dumps({"x": NUMBER}).replace(f'"{NUMBER}"', NUMBER)
        load = Load("127.0.0.1", port, "/", body, rate_per_s=100.0, clients=2, timeout_s=5.0)
        sender = Sender(load, lambda entry: (entries.append(entry), len(entries) >= 5 and sender.stop())[0])
        async with asyncio.timeout(20):
            await sender.run()
    assert len(entries) >= 5
    for entry in entries:
        assert (entry.error or "").partition(":")[0] == (kept or "")
        assert entry.ok == (kept is None)
