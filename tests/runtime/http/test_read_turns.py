"""Clients that were refused and ask again at once are read in their turn, so that others come through."""

import asyncio
import json
import selectors
import socket
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import httpx
import pytest
from tests.runtime.serving.processes import WITHIN_S, Server, served, until
from tests.support.virtual_time import in_virtual_time

from podium.http.transport.read_turns import AT_ONCE, REST, ReadTurns

CROWD = 300
YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {{name: code}}
data:
  model.py: |
    import time
    from pathlib import Path
    from podium import Model

    class Gated(Model):
        def infer(self, inputs):
            while not Path({gate!r}).exists():
                time.sleep(0.005)
            return {{"y": inputs["x"]}}

    class Echo(Model):
        def infer(self, inputs):
            return {{"y": inputs["x"]}}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: gated}}
spec:
  version: "1"
  source: {{uri: "configmap://code"}}
  engine: Python
  python: {{entrypoint: "model:Gated"}}
  batching: {{maxQueueSize: 1, maxBatchSize: 1}}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: echo}}
spec:
  version: "1"
  source: {{uri: "configmap://code"}}
  engine: Python
  python: {{entrypoint: "model:Echo"}}
"""


class Connection:
    """One that is written to when it likes."""

    def __init__(self) -> None:
        self.reads = 0

    def read_again(self) -> None:
        self.reads += 1


@in_virtual_time
async def test_turns_come_in_the_order_of_the_refusals_a_few_at_a_time() -> None:
    turns, crowd = ReadTurns(), [Connection() for _ in range(3 * AT_ONCE)]
    for connection in crowd:
        turns.add(connection)
    assert not any(connection.reads for connection in crowd)
    await asyncio.sleep(0)
    assert [connection.reads for connection in crowd] == [1] * AT_ONCE + [0] * 2 * AT_ONCE
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [connection.reads for connection in crowd] == [1] * 3 * AT_ONCE
    assert len(turns) == 0


@in_virtual_time
async def test_they_rest_for_as_long_as_their_turns_took_and_more() -> None:
    loop = asyncio.get_running_loop()
    turns, crowd = ReadTurns(), [Connection() for _ in range(2 * AT_ONCE)]
    for connection in crowd:
        turns.add(connection)
    await asyncio.sleep(0)
    for _ in range(AT_ONCE):
        turns.took(0.01)
    began = loop.time()
    while len(turns):  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.001)
    assert loop.time() - began == pytest.approx(REST * AT_ONCE * 0.01, abs=0.002)
    assert all(connection.reads == 1 for connection in crowd)


@in_virtual_time
async def test_one_that_is_refused_where_nothing_was_spent_waits_for_nobody() -> None:
    turns, connection = ReadTurns(), Connection()
    for turn in range(1, 4):
        turns.add(connection)
        await asyncio.sleep(0)
        assert connection.reads == turn


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Once it exists, the model `gated` answers."""
    return tmp_path / "gate"


@pytest.fixture
def server(tmp_path: Path, gate: Path) -> Iterator[Server]:
    with served(tmp_path, YAML.format(gate=str(gate))) as running:
        yield running


def request(model: str, *, is_chunked: bool = False) -> bytes:
    """One that the express lane takes, or one that goes the usual way."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
    if is_chunked:
        return b"%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(body), body)
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


class Crowd:
    """Connections that ask for one model again whenever they are answered."""

    def __init__(self, port: int, asks: bytes, stack: ExitStack) -> None:
        self._asks = asks
        self._came: dict[socket.socket, bytes] = {}
        self._selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(CROWD):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S))
            self._selector.register(connection, selectors.EVENT_READ)
            self._came[connection] = b""
            connection.sendall(asks)
        self.statuses: list[int] = []

    def take(self) -> None:
        """Reads what has come, and asks again where that was an answer."""
        for key, _ in self._selector.select(WITHIN_S):
            connection = cast(socket.socket, key.fileobj)
            if (status := self._status(connection)) is not None:
                self.statuses.append(status)
                connection.sendall(self._asks)

    def end(self) -> None:
        """The last answer of each connection; none is asked again."""
        while self._selector.get_map():
            ready = self._selector.select(WITHIN_S)
            assert ready, "not everybody was answered"
            for key, _ in ready:
                connection = cast(socket.socket, key.fileobj)
                if (status := self._status(connection)) is not None:
                    self.statuses.append(status)
                    self._selector.unregister(connection)

    def _status(self, connection: socket.socket) -> int | None:
        data = connection.recv(65536)
        assert data, "the connection was closed"
        came = self._came[connection] = self._came[connection] + data
        head, end, body = came.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]):
            return None
        self._came[connection] = b""
        return int(head.split(b" ", 2)[1])


@pytest.mark.parametrize("is_chunked", [False, True], ids=["express", "usual"])
def test_another_model_answers_before_the_whole_crowd_has_been_refused_again(
    server: Server, gate: Path, *, is_chunked: bool
) -> None:
    with ExitStack() as stack:
        crowd = Crowd(server.port, request("gated", is_chunked=is_chunked), stack)
        while len(crowd.statuses) < 2 * CROWD:
            crowd.take()
        assert held_back(server) > CROWD // 2
        others = []
        for _ in range(5):
            before = len(crowd.statuses)
            with socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN_S) as other:
                other.sendall(request("echo"))
                other.setblocking(False)
                while not _has_come(other):
                    crowd.take()
            others.append(len(crowd.statuses) - before)
        assert statistics.median(others) < CROWD
        gate.touch()
        crowd.end()
        assert set(crowd.statuses) == {200, 503}
    until(lambda: not held_back(server), "nobody waits to be read")


def _has_come(connection: socket.socket) -> bool:
    try:
        answer = connection.recv(65536)
    except BlockingIOError:
        return False
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return True


def held_back(server: Server) -> float:
    """Connections that wait for their turn."""
    text = httpx.get(f"{server.url}/metrics", timeout=WITHIN_S).text
    return float(text.split("\npodium_connections_held_back ", 1)[1].split("\n", 1)[0])
