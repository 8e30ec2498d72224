"""Answers far larger than a socket's buffers, read slowly or not at all while slots churn: every byte right."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.serving.processes import Server, served, until

MIB = 1 << 20
YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    import numpy as np
    from podium import Model

    class Count(Model):
        '''As many numbers as the input says, from the input's second number on.'''
        def load(self, ctx):
            self.ctx = ctx

        def infer(self, inputs):
            count, first = (int(value) for value in inputs["order"][0])
            y = self.ctx.output("y", (1, count))
            y[0] = np.arange(first, first + count, dtype=np.uint32)
            return {"y": y}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: count}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Count"}
  inputs: [{name: order, dtype: INT64, shape: [-1, 2]}]
  outputs: [{name: "y", dtype: UINT32, shape: [-1, -1]}]
  batching: {maxBatchSize: 1, maxQueueSize: 200}
"""
FAST = 31


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, whose event loop is uvloop's, with an arena that holds three of the largest answers."""
    with served(tmp_path_factory.mktemp("slow"), YAML, arena_mib=232) as running:
        yield running


class Reader:
    """A connection that takes its answer only as it is told to."""

    def __init__(self, server: Server, megabytes: int, first: int, *, sends_binary: bool = False) -> None:
        """`sends_binary`: the request goes the way of ASGI, past the express lane."""
        self.count = megabytes * MIB // 4
        self.first = first
        numbers = np.array([self.count, first]).tobytes() if sends_binary else b""
        given = {"parameters": {"binary_data_size": 16}} if sends_binary else {"data": [self.count, first]}
        order = {"name": "order", "datatype": "INT64", "shape": [1, 2], **given}
        wanted = {"name": "y", "parameters": {"binary_data": True}}
        body = json.dumps({"inputs": [order], "outputs": [wanted]}).encode()
        header = b"inference-header-content-length: %d\r\n" % len(body) if sends_binary else b""
        body += numbers
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self._socket.settimeout(60)
        self._socket.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        head = b"POST /v2/models/count/infer HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
        self._socket.sendall(head % (header, len(body)) + body)
        self._got = bytearray()

    def take(self, nbytes: int) -> None:
        """Reads that many bytes more."""
        target = len(self._got) + nbytes
        while len(self._got) < target and (piece := self._socket.recv(min(64 << 10, target - len(self._got)))):
            self._got += piece

    def answer(self) -> NDArray[np.uint32]:
        """Reads the rest and returns the tensor."""
        while b"\r\n\r\n" not in self._got:
            self.take(1)
        head, _, rest = bytes(self._got).partition(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        self.take(int(headers[b"content-length"]) - len(rest))
        if not head.startswith(b"HTTP/1.1 200"):
            pytest.fail(bytes(self._got[:2000]).decode())
        start = len(head) + 4 + int(headers[b"inference-header-content-length"])
        return np.frombuffer(bytes(self._got[start:]), np.uint32)

    def check(self) -> None:
        """Every number of the answer is the right one."""
        np.testing.assert_array_equal(
            self.answer(), np.arange(self.first, self.first + self.count, dtype=np.uint32), strict=True
        )

    def close(self) -> None:
        self._socket.close()


@contextmanager
def reading(server: Server, megabytes: int, first: int, *, sends_binary: bool = False) -> Iterator[Reader]:
    reader = Reader(server, megabytes, first, sends_binary=sends_binary)
    try:
        yield reader
    finally:
        reader.close()


def fast(server: Server, megabytes: int, first: int) -> None:
    with reading(server, megabytes, first) as reader:
        reader.check()


def total(server: Server, name: str, label: str = "") -> float:
    """The sum of a metric's series that have that label."""
    lines = httpx.get(server.url + "/metrics").text.splitlines()
    found = [line for line in lines if line.startswith((name + "{", name + " ")) and label in line]
    assert found, name
    return sum(float(line.rpartition(" ")[2]) for line in found)


def used_bytes(server: Server) -> float:
    return total(server, "podium_arena_bytes", 'state="used"')


def sent_bytes(server: Server) -> float:
    return total(server, "podium_tensor_body_bytes_total", 'direction="out"')


def copied_bytes(server: Server) -> float:
    return total(server, "podium_tensor_copied_bytes_total", 'step="http_out"')


@pytest.mark.parametrize("sends_binary", [False, True], ids=["express", "asgi"])
def test_a_slow_reader_gets_every_byte_of_the_slot_itself_while_slots_churn(server: Server, sends_binary: bool) -> None:
    ended = threading.Event()
    churned = threading.Semaphore(0)

    def churn(start: int) -> int:
        rounds = 0
        while not ended.is_set():
            fast(server, 1 + rounds % 4, start + rounds)
            rounds += 1
            churned.release()
        return rounds

    with ThreadPoolExecutor(3) as pool, reading(server, 64, 1_000_000_000, sends_binary=sends_binary) as slow:
        others = [pool.submit(churn, start) for start in (0, 2_000_000_000, 3_000_000_000)]
        try:
            for number in range(32):
                assert churned.acquire(timeout=60)
                slow.take(2 * MIB)
                if number == 1:
                    assert total(server, "podium_arena_lent_bytes") >= 64 * MIB, "it is sent from where it lies"
            slow.check()
        finally:
            ended.set()
        assert sum(other.result() for other in others) >= 32
    until(lambda: used_bytes(server) == 0, "every slot is free")


def test_many_fast_readers_do_not_notice_one_that_has_stopped(server: Server) -> None:
    with reading(server, 64, 7) as stopped:
        stopped.take(1)
        with ThreadPoolExecutor(FAST) as pool:
            for answer in [pool.submit(fast, server, 2, 10_000_000 * number) for number in range(2 * FAST)]:
                answer.result(60)
        assert used_bytes(server) <= 64 * MIB + 2 * MIB, "what the others had is free"
        stopped.check()
    until(lambda: used_bytes(server) == 0, "every slot is free")


def test_readers_that_leave_in_the_middle_leave_nothing_behind(server: Server) -> None:
    for number in range(5):
        with reading(server, 32, number) as leaver:
            leaver.take(MIB * number)
    fast(server, 4, 1)
    until(lambda: used_bytes(server) == 0, "every slot is free")


@pytest.mark.parametrize("sends_binary", [False, True], ids=["express", "asgi"])
def test_an_answer_from_shared_memory_is_not_copied(server: Server, sends_binary: bool) -> None:
    sent, copied = sent_bytes(server), copied_bytes(server)
    for megabytes in (1, 4, 64):
        with reading(server, megabytes, megabytes, sends_binary=sends_binary) as reader:
            reader.check()
    assert sent_bytes(server) - sent == 69 * MIB
    assert copied_bytes(server) == copied
    until(lambda: used_bytes(server) == 0, "every slot is free")


def test_what_slow_readers_keep_is_bounded_and_the_next_answer_is_a_copy(server: Server) -> None:
    copied = copied_bytes(server)
    with reading(server, 60, 1) as stopped, reading(server, 40, 2, sends_binary=True) as other:
        stopped.take(1)
        other.take(1)
        kept, copies = total(server, "podium_arena_lent_bytes"), copied_bytes(server) - copied
        assert sorted([kept, copies]) == [40 * MIB, 60 * MIB], "a third of the arena has no room for both"
        stopped.check()
        other.check()
    until(lambda: used_bytes(server) == 0, "every slot is free")


def begin_to_send(server: Server, nbytes: int) -> socket.socket:
    """A connection that has declared a binary tensor of that size, and sent none of it."""
    tensor = {
        "name": "order",
        "datatype": "INT64",
        "shape": [nbytes // 16, 2],
        "parameters": {"binary_data_size": nbytes},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    sender = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 60)
    sender.sendall(
        b"POST /v2/models/count/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n"
        b"inference-header-content-length: %d\r\n\r\n%s" % (len(header) + nbytes, len(header), header)
    )
    return sender


def test_bodies_that_come_in_hold_half_of_the_arena_and_the_next_is_told_to_come_back(server: Server) -> None:
    with begin_to_send(server, 60 * MIB):
        until(lambda: used_bytes(server) >= 60 * MIB, "the first body has its slot")
        with begin_to_send(server, 60 * MIB) as second:
            answer = second.recv(4096).lower()
            assert answer.startswith(b"http/1.1 503"), answer
            assert b"retry-after: " in answer
        fast(server, 4, 1)
    until(lambda: used_bytes(server) == 0, "the first has left")
    with begin_to_send(server, 60 * MIB):
        until(lambda: used_bytes(server) >= 60 * MIB, "there is room again")
    until(lambda: used_bytes(server) == 0, "every slot is free")


def test_an_answer_that_finds_no_room_is_for_later_and_not_the_models_fault(server: Server) -> None:
    with begin_to_send(server, 60 * MIB), begin_to_send(server, 50 * MIB), reading(server, 64, 1) as stopped:
        stopped.take(1)
        until(lambda: used_bytes(server) >= 174 * MIB, "two bodies and an answer hold their slots")
        body = {"inputs": {"order": [[65 * MIB // 4, 1]]}}
        refused = httpx.post(f"{server.url}/v1/models/count:predict", json=body, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "memory_full"), refused.text[:500]
        assert f"outputs of {65 * MIB} bytes" in refused.text
        fast(server, 4, 1)
    until(lambda: used_bytes(server) == 0, "both have left")
    fast(server, 65, 1)
