"""Large binary bodies, put where they belong as they come in: every byte right, however they are cut and ended."""

import json
import socket
from collections.abc import Iterator
from itertools import pairwise

import httpx
import numpy as np
import pytest
from tests.runtime.serving.processes import Server, served, until

MIB = 1 << 20
YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    from podium import Model

    class Swap(Model):
        def infer(self, inputs):
            return {"c": inputs["b"], "d": inputs["a"]}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: swap}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Swap"}
  inputs: [{name: a, dtype: UINT8, shape: [-1, -1]}, {name: b, dtype: UINT8, shape: [-1, -1]}]
  outputs: [{name: c, dtype: UINT8, shape: [-1, -1]}, {name: d, dtype: UINT8, shape: [-1, -1]}]
  batching: {maxBatchSize: 1}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, whose event loop is uvloop's."""
    with served(tmp_path_factory.mktemp("poured"), YAML, arena_mib=256) as running:
        yield running


def all_is_free(server: Server) -> bool:
    lines = httpx.get(server.url + "/metrics").text.splitlines()
    used = [line for line in lines if line.startswith("podium_arena_bytes") and 'state="used"' in line]
    assert used
    return all(line.endswith(" 0.0") for line in used)


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 60)


def tensors(*sizes: int) -> list[bytes]:
    random = np.random.default_rng(sum(sizes))
    return [random.bytes(size) for size in sizes]


def body_of(a: bytes, b: bytes) -> tuple[bytes, bytes]:
    """The JSON part and the tensors."""
    inputs = [
        {"name": name, "datatype": "UINT8", "shape": [1, len(raw)], "parameters": {"binary_data_size": len(raw)}}
        for name, raw in (("a", a), ("b", b))
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return header, a + b


def head_of(header: bytes, length: int | None) -> bytes:
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"POST /v2/models/swap/infer HTTP/1.1\r\nhost: x\r\n%b\r\ninference-header-content-length: %d\r\n\r\n" % (
        framing,
        len(header),
    )


def read_answer(line: socket.socket) -> tuple[bytes, bytes]:
    """Status line and what follows the JSON part."""
    with line.makefile("rb") as got:
        status = got.readline()
        headers = dict(raw.lower().strip().split(b": ", 1) for raw in iter(got.readline, b"\r\n"))
        body = got.read(int(headers[b"content-length"]))
    return status, body[int(headers.get(b"inference-header-content-length", b"0")) :]


def check(line: socket.socket, a: bytes, b: bytes) -> None:
    status, raw = read_answer(line)
    assert status.startswith(b"HTTP/1.1 200"), (status, raw[:500])
    assert raw == b + a


@pytest.mark.parametrize("sizes", [(31 * MIB, 32 * MIB), (1 * MIB + 1, 3), (5, 700_001), (4095, 4097), (0, 100_000)])
def test_every_byte_arrives(server: Server, sizes: tuple[int, int]) -> None:
    a, b = tensors(*sizes)
    header, raw = body_of(a, b)
    with connected(server) as line:
        for _ in range(2):  # the second on the same connection
            line.sendall(head_of(header, len(header) + len(raw)) + header + raw)
            check(line, a, b)
    until(lambda: all_is_free(server), "every slot is free")


def test_pieces_may_end_anywhere(server: Server) -> None:
    a, b = tensors(300_001, 200_003)
    header, raw = body_of(a, b)
    message = head_of(header, len(header) + len(raw)) + header + raw
    cuts = sorted({0, *np.random.default_rng(1).integers(1, len(message), 200).tolist(), len(message)})
    with connected(server) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in pairwise(cuts):
            line.sendall(message[start:end])
        check(line, a, b)


def test_chunks_and_requests_that_follow_at_once(server: Server) -> None:
    a, b = tensors(1_000_003, 500_000)
    header, raw = body_of(a, b)
    whole = header + raw
    pieces = [whole[at : at + 77_777] for at in range(0, len(whole), 77_777)]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with connected(server) as line:
        line.sendall(head_of(header, None) + chunked + head_of(header, len(whole)) + whole)
        with line.makefile("rb") as got:
            for _ in range(2):
                assert got.readline().startswith(b"HTTP/1.1 200")
                headers = dict(raw.lower().strip().split(b": ", 1) for raw in iter(got.readline, b"\r\n"))
                assert got.read(int(headers[b"content-length"])).endswith(b + a)
    until(lambda: all_is_free(server), "every slot is free")


@pytest.mark.parametrize("change", [-1, 1, 900_000])
def test_a_body_that_is_not_what_it_declares_is_refused(server: Server, change: int) -> None:
    header, raw = body_of(*tensors(1_000_003, 500_000))
    sent = raw[:change] if change < 0 else raw + b"x" * change
    with connected(server) as line:
        line.sendall(head_of(header, len(header) + len(sent)) + header + sent)
        status, answer = read_answer(line)
        assert status.startswith(b"HTTP/1.1 422"), status
        assert b"the inputs declare 1500003" in answer
    until(lambda: all_is_free(server), "every slot is free")


@pytest.mark.parametrize("part", [0, 1, 3 * MIB, 8 * MIB - 1])
def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(server: Server, part: int) -> None:
    header, raw = body_of(*tensors(4 * MIB, 4 * MIB))
    with connected(server) as line:
        line.sendall(head_of(header, len(header) + len(raw)) + header + raw[:part])
        until(lambda: not all_is_free(server), "the body has its slots")
    until(lambda: all_is_free(server), "every slot is free")


def test_a_body_that_stops_gives_its_slots_back(server: Server) -> None:
    header, raw = body_of(*tensors(4 * MIB, 4 * MIB))
    with connected(server) as line:
        line.sendall(head_of(header, len(header) + len(raw)) + header + raw[:100_000])
        until(lambda: not all_is_free(server), "the body has its slots")
        status, answer = read_answer(line)
        assert status.startswith(b"HTTP/1.1 408"), status
        assert b"too slowly" in answer
    until(lambda: all_is_free(server), "every slot is free")
