"""Connections of gRPC, seen by the real client and by a peer that speaks HTTP/2 by hand: they end at their age and not
with a call, they move from an ending pod, and none may stay that says nothing or pings without end."""

import contextlib
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tests.runtime.grpc_oip.test_grpc_changes import YAML, ask, in_flight
from tests.runtime.serving.processes import Server, served, until
from tests.support.cluster_ip import cluster_ip

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ENHANCE_YOUR_CALM = 11
ONE_SECOND = {"PODIUM_GRPC_CONNECTION_AGE_SECONDS": "1"}


@contextlib.contextmanager
def pod(folder: Path, version: str, **environment: str) -> Iterator[Server]:
    """A server that says its version in each answer."""
    folder.mkdir(exist_ok=True)
    two_at_once = YAML.replace("batching: {maxBatchSize: 1}", "batching: {maxBatchSize: 1}\n  instances: 2")
    yaml = two_at_once.replace('version: "1"', f'version: "{version}"')
    with served(folder, yaml, "--grpc-port", "0", **environment) as server:
        yield server


@contextlib.contextmanager
def load(channel: grpc.Channel, clients: int = 4) -> Iterator[Counter[str]]:
    """Calls without a pause over one channel; counts who answered. Raises what any call did."""
    answered: Counter[str] = Counter()
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            answered[ask(channel, 0.001).result().model_version] += 1

    with ThreadPoolExecutor(clients) as pool:
        clients_under_way = [pool.submit(client) for _ in range(clients)]
        try:
            yield answered
        finally:
            over.set()
        for each in clients_under_way:
            each.result(60)


def test_a_long_lived_channel_comes_to_another_pod_in_time_and_no_call_fails(tmp_path: Path) -> None:
    with (
        pod(tmp_path / "a", "1", **ONE_SECOND) as first,
        pod(tmp_path / "b", "2", **ONE_SECOND) as second,
        cluster_ip(first.grpc_port) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
        load(channel) as answered,
    ):
        until(lambda: answered["1"], "the first pod answers")
        service.target = second.grpc_port
        until(lambda: answered["2"], "the second pod answers")
        service.target = first.grpc_port
        before = answered["1"]
        until(lambda: answered["1"] > before + 100, "the first pod answers again")
        assert len(service.connections) >= 3


def test_a_drain_answers_its_last_call_and_loses_none_of_a_busy_channel_that_moves_on(tmp_path: Path) -> None:
    with (
        pod(tmp_path / "a", "1", **ONE_SECOND) as ending,
        pod(tmp_path / "b", "2", **ONE_SECOND) as other,
        cluster_ip(ending.grpc_port) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
        load(channel) as answered,
    ):
        until(lambda: answered["1"], "the pod answers")
        last = ask(channel, 4)
        until(lambda: in_flight(ending.url) >= 1, "a long call is in")
        ending.signal(signal.SIGTERM)
        service.target = other.grpc_port
        assert last.result().model_version == "1"
        assert ending.ends() == 0
        before = answered["2"]
        until(lambda: answered["2"] > before + 100, "the other pod answers")


@pytest.fixture(scope="module")
def grpc_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with pod(tmp_path_factory.mktemp("connections"), "1") as server:
        yield server.grpc_port


def frame(kind: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + payload


def frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """What the server sends until it closes."""
    with connection.makefile("rb") as stream:
        while head := stream.read(9):
            yield head[3], stream.read(int.from_bytes(head[:3], "big"))


def test_a_peer_that_pings_without_end_is_told_to_be_calm_and_cut(grpc_port: int) -> None:
    with socket.create_connection(("127.0.0.1", grpc_port), timeout=60) as connection:
        pings = b"".join(frame(PING, struct.pack(">Q", n)) for n in range(16))
        connection.sendall(PREFACE + frame(SETTINGS) + pings)
        goaways = [payload for kind, payload in frames(connection) if kind == GOAWAY]
    assert struct.unpack(">I", goaways[0][4:8]) == (ENHANCE_YOUR_CALM,)


def test_a_peer_that_connects_and_says_nothing_is_cut(grpc_port: int) -> None:
    with socket.create_connection(("127.0.0.1", grpc_port), timeout=60) as connection:
        assert GOAWAY in [kind for kind, _ in frames(connection)]
