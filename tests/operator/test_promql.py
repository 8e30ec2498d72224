"""Questions to a Prometheus server, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.support.prometheus import FakePrometheus, refused, scalar, vector
from tests.support.real_prometheus import RealPrometheus

from podium_operator.promql import FRESH_S, LONGEST_PAUSE_S, MAX_ANSWER_BYTES, MAX_REMEMBERED, Prometheus


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("says", "value"), [(vector(0.25), 0.25), (scalar("7"), 7.0), (vector("+Inf"), float("inf"))])
async def test_one_number_is_an_answer(says: Any, value: float) -> None:
    async with FakePrometheus() as server, Prometheus([server.address]) as client:
        server.says = says
        found = await client.measure(server.address, "up == 1")
    assert (found.value, found.problem) == (value, "")
    assert server.queries == ["up == 1"]


@pytest.mark.parametrize(
    ("says", "status", "words"),
    [
        (vector(), 200, "no data yet"),
        (vector(1, 2), 200, "gives 2 series, expected one number"),
        (vector("NaN"), 200, "gives NaN"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, 200, "gives a matrix"),
        ({"status": "success", "data": {"resultType": "vector", "result": ["x"]}}, 200, "no value"),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1]}}, 200, "no value"),
        ({"status": "success", "data": []}, 200, "gives a None"),
        ([], 200, "no error is named"),
        (refused("parse error: unexpected end"), 400, "status 400: parse error: unexpected end"),
        ("<html>", 502, "status 502, and not the JSON of Prometheus"),
        ("x" * (MAX_ANSWER_BYTES + 1), 200, "larger than"),
    ],
)
async def test_anything_else_says_why_there_is_no_number(says: Any, status: int, words: str) -> None:
    async with FakePrometheus() as server, Prometheus([server.address]) as client:
        server.says, server.status = says, status
        found = await client.measure(server.address, "up")
    assert found.value is None
    assert words in found.problem


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealPrometheus]:
    async with RealPrometheus(tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("query", "value", "words"),
    [
        ("vector(0.25)", 0.25, ""),
        ("scalar(vector(7))", 7.0, ""),
        ("vector(1) / 0", float("inf"), ""),
        ("nobody_ever_counted_this", None, "no data yet"),
        (
            'label_replace(vector(1), "pod", "a", "", "") or label_replace(vector(2), "pod", "b", "", "")',
            None,
            "2 series",
        ),
        ("vector(0) / 0", None, "gives NaN"),
        ("up[5m]", None, "gives a matrix"),
        ('"words"', None, "gives a string"),
        ("sum(", None, "status 400: "),
    ],
)
async def test_a_real_server_is_understood(real: RealPrometheus, query: str, value: float | None, words: str) -> None:
    async with Prometheus([real.address]) as client:
        found = await client.measure(real.address, query)
    assert found.value == value
    assert words in found.problem


async def test_an_address_that_is_not_allowed_is_never_asked() -> None:
    async with FakePrometheus() as server, Prometheus(["http://prometheus:9090"]) as client:
        found = await client.measure(server.address, "up")
        near = await client.measure("http://prometheus:9090/../admin", "up")
    assert server.queries == []
    assert "operator.prometheusAddresses" in found.problem
    assert "operator.prometheusAddresses" in near.problem


async def test_a_redirect_is_not_followed() -> None:
    async with FakePrometheus() as inner, FakePrometheus() as server, Prometheus([server.address]) as client:
        server.says, server.status = "", 307
        server.headers = {"Location": f"{inner.address}/api/v1/query"}
        found = await client.measure(server.address, "up")
    assert found.value is None
    assert inner.queries == []


async def test_an_answer_is_kept_for_a_moment_for_each_query() -> None:
    clock = Clock()
    async with FakePrometheus() as server, Prometheus([server.address + "/"], clock) as client:
        for _ in range(5):
            await client.measure(server.address, "a")
        await client.measure(server.address, "b")
        assert server.queries == ["a", "b"]
        clock.now = FRESH_S
        await client.measure(server.address, "a")
        assert server.queries == ["a", "b", "a"]


async def test_a_server_that_is_away_is_asked_less_and_less_often_and_believed_again_at_once() -> None:
    clock, asked = Clock(), []
    async with FakePrometheus() as server, Prometheus([server.address], clock) as client:
        server.says, server.status = refused("busy"), 503
        for second in range(2000):
            clock.now = float(second)
            before = len(server.queries)
            assert (await client.measure(server.address, "up")).value is None
            if len(server.queries) > before:
                asked.append(second)
        assert asked == [0, 10, 30, 70, 150, 310, 610, 910, 1210, 1510, 1810]
        server.says, server.status = vector(1), 200
        clock.now += LONGEST_PAUSE_S
        assert (await client.measure(server.address, "up")).value == 1.0


async def test_a_port_where_nobody_listens_is_a_problem_and_no_error() -> None:
    async with FakePrometheus() as server:
        address = server.address
    async with Prometheus([address]) as client:
        found = await client.measure(address, "up")
    assert found.value is None
    assert found.problem.startswith(f"{address}: ")


async def test_a_server_that_never_answers_costs_a_bounded_time() -> None:
    gone = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        async with Prometheus([address]) as client, asyncio.timeout(30):
            assert "no answer within" in (await client.measure(address, "up")).problem
    finally:
        gone.set()
        listener.close()
        await listener.wait_closed()


async def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    async with FakePrometheus() as server, Prometheus([server.address], clock) as client:
        for number in range(MAX_REMEMBERED + 1):
            await client.measure(server.address, f"q{number}")
        await client.measure(server.address, "q0")
    assert server.queries.count("q0") == 2
