"""Large binary bodies, put where they belong as they come in: every byte right, however they are cut and ended."""

import contextlib
import json
import select
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

    class Flip(Model):
        def infer(self, inputs):
            return {"y": inputs["x"][:, ::-1]}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: flip}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Flip"}
  inputs: [{name: x, dtype: UINT16, shape: [1, -1]}]
  outputs: [{name: "y", dtype: UINT16, shape: [1, -1]}]
  batching: {maxBatchSize: 1}
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


def counted(server: Server) -> tuple[float, float]:
    """Bytes of tensors that came in, and bytes that were copied on their way into their slots."""
    found = [0.0, 0.0]
    for line in httpx.get(server.url + "/metrics").text.splitlines():
        if line.startswith("podium_tensor_body_bytes_total") and 'direction="in"' in line:
            found[0] = float(line.rpartition(" ")[2])
        if line.startswith("podium_tensor_copied_bytes_total") and 'step="http_in"' in line:
            found[1] = float(line.rpartition(" ")[2])
    return found[0], found[1]


@pytest.mark.parametrize("size", [20_000, 75_000, 4 * MIB, 31 * MIB])
def test_what_comes_with_the_head_is_copied_once_and_the_rest_never(server: Server, size: int) -> None:
    came, copied = counted(server)
    a, b = tensors(size, size)
    header, raw = body_of(a, b)
    with connected(server) as line:
        line.sendall(head_of(header, len(header) + len(raw)) + header + raw)
        check(line, a, b)
    came_now, copied_now = counted(server)
    assert came_now - came == 2 * size
    assert copied_now - copied <= min(2 * size, 256 << 10), "at most what the transport reads at once"


def test_a_body_that_comes_after_its_head_is_not_copied(server: Server) -> None:
    _, copied = counted(server)
    a, b = tensors(MIB, MIB)
    header, raw = body_of(a, b)
    with connected(server) as line:
        line.sendall(head_of(header, len(header) + len(raw)) + header)
        until(lambda: not all_is_free(server), "the body has its slots")
        line.sendall(raw)
        check(line, a, b)
    assert counted(server)[1] == copied


def test_chunks_are_copied_twice(server: Server) -> None:
    came, copied = counted(server)
    a, b = tensors(MIB, MIB)
    header, raw = body_of(a, b)
    with connected(server) as line:
        line.sendall(head_of(header, None) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(header + raw), header + raw))
        check(line, a, b)
    came_now, copied_now = counted(server)
    assert (came_now - came, copied_now - copied) == (2 * MIB, 4 * MIB)


def test_bodies_that_follow_each_other_at_once_are_told_apart(server: Server) -> None:
    a, b = tensors(150_001, 50_003)
    header, raw = body_of(a, b)
    request = head_of(header, len(header) + len(raw)) + header + raw
    plain = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    with connected(server) as line:
        line.sendall(request + request + plain + request)
        with line.makefile("rb") as got:
            for ending in (b + a, b + a, b"", b + a):
                assert got.readline().startswith(b"HTTP/1.1 200")
                headers = dict(raw.lower().strip().split(b": ", 1) for raw in iter(got.readline, b"\r\n"))
                assert got.read(int(headers[b"content-length"])).endswith(ending)
    until(lambda: all_is_free(server), "every slot is free")


def test_what_follows_a_last_request_is_no_request(server: Server) -> None:
    a, b = tensors(40_000, 40_000)
    header, raw = body_of(a, b)
    head = head_of(header, len(header) + len(raw)).replace(b"host: x", b"host: x\r\nconnection: close")
    with connected(server) as line:
        line.sendall(head + header + raw + b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n" * 300)
        with line.makefile("rb") as got:
            answers = got.read()
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.endswith(b + a)


def test_a_client_that_waits_to_be_told_to_go_on_is_told(server: Server) -> None:
    a, b = tensors(300_000, 300_000)
    header, raw = body_of(a, b)
    head = head_of(header, len(header) + len(raw)).replace(b"host: x", b"host: x\r\nexpect: 100-continue")
    with connected(server) as line:
        line.sendall(head)
        assert line.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(header + raw)
        check(line, a, b)


def test_a_json_part_longer_than_the_body_reads_nothing_of_the_next_request(server: Server) -> None:
    a, b = tensors(100_000, 100_000)
    header, raw = body_of(a, b)
    head = b"POST /v2/models/swap/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 50000\r\n"
    with connected(server) as line:
        line.sendall(head + b"inference-header-content-length: 90000\r\n\r\n")
        line.sendall(b" " * 50_000 + head_of(header, len(header) + len(raw)) + header + raw)
        status, _ = read_answer(line)
        assert status.startswith(b"HTTP/1.1 422"), status
    until(lambda: all_is_free(server), "every slot is free")


def test_a_refused_body_is_read_over_and_the_next_request_answered(server: Server) -> None:
    a, b = tensors(500_000, 500_000)
    header, raw = body_of(a, b)
    with connected(server) as line, line.makefile("rb") as got:
        for _ in range(3):
            line.sendall(head_of(header, len(header) + len(raw) + 5) + header)
            assert got.readline().startswith(b"HTTP/1.1 422"), "before the body has come"
            headers = dict(raw.lower().strip().split(b": ", 1) for raw in iter(got.readline, b"\r\n"))
            got.read(int(headers[b"content-length"]))
            line.sendall(raw + b"GET /")
        line.sendall(head_of(header, len(header) + len(raw)) + header + raw)
        assert got.readline().startswith(b"HTTP/1.1 200")
    until(lambda: all_is_free(server), "every slot is free")


def test_routes_that_read_by_themselves_find_such_bodies_too(server: Server) -> None:
    extra = {"inference-header-content-length": "3"}
    index = httpx.post(server.url + "/v2/repository/index", content=b'{"ready": true}', headers=extra)
    assert {entry["name"] for entry in index.json()} == {"swap", "flip"}
    refused = httpx.post(server.url + "/v2/repository/index", content=b" " * 1_000_000, headers=extra)
    assert refused.status_code == 413
    document = {"inputs": {name: {"dtype": "UINT8", "shape": [1, 30000], "data": [7] * 30000} for name in "ab"}}
    answer = httpx.post(server.url + "/v1/models/swap:predict", json=document, headers=extra)
    assert answer.json()["outputs"]["c"]["shape"] == [1, 30000]


RAW_CHUNKED = (
    b"POST /v2/models/flip/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
    b"inference-header-content-length: 0\r\n\r\n"
)


def chunk(raw: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(raw), raw)


@pytest.mark.parametrize("size", [8, 16 << 10, 64 << 10, (64 << 10) + 8, 300_000, 5 * MIB, 17 * MIB, 64 * MIB])
def test_a_raw_body_of_unknown_length_gets_a_slot_that_grows(server: Server, size: int) -> None:
    (raw,) = tensors(size)
    with connected(server) as line:
        line.sendall(RAW_CHUNKED)
        for at in range(0, size, MIB):
            line.sendall(chunk(raw[at : at + MIB]))
        line.sendall(b"0\r\n\r\n")
        status, answer = read_answer(line)
    assert status.startswith(b"HTTP/1.1 200"), (status, answer[:300])
    assert answer == np.frombuffer(raw, np.uint16)[::-1].tobytes()
    until(lambda: all_is_free(server), "every slot is free")


def test_a_raw_body_that_no_shape_takes_is_refused(server: Server) -> None:
    with connected(server) as line:
        line.sendall(RAW_CHUNKED + chunk(b"x" * 100_001) + b"0\r\n\r\n")
        status, answer = read_answer(line)
    assert status.startswith(b"HTTP/1.1 422"), (status, answer)
    until(lambda: all_is_free(server), "every slot is free")


@pytest.mark.parametrize("head", ["raw", "json"])
def test_a_body_without_an_end_is_cut_at_the_limit(server: Server, head: str) -> None:
    header, raw = body_of(*tensors(4096, 4096))
    begun = RAW_CHUNKED if head == "raw" else head_of(header, None) + chunk(header + raw)
    sent = 0
    with connected(server) as line:
        line.sendall(begun)
        line.setblocking(False)
        piece = memoryview(chunk(bytes(MIB)) * 4)
        rest = piece
        while sent < 96 * MIB:
            readable, writable, _ = select.select([line], [line], [], 60)
            if readable:
                break
            assert writable, "neither read nor answered"
            count = line.send(rest)
            rest, sent = rest[count:] or piece, sent + count
        line.settimeout(60)
        status, answer = read_answer(line)
    assert status.startswith(b"HTTP/1.1 413"), (status, answer)
    until(lambda: all_is_free(server), "every slot is free")


def test_a_body_in_chunks_of_one_byte_is_cut_at_their_number(server: Server) -> None:
    with connected(server) as line:
        line.sendall(RAW_CHUNKED)
        with contextlib.suppress(ConnectionError):
            line.sendall(b"1\r\nx\r\n" * 70_000)
        status, answer = read_answer(line)
    assert status.startswith(b"HTTP/1.1 413"), (status, answer)
    until(lambda: all_is_free(server), "every slot is free")


def test_bodies_of_unknown_length_share_half_of_the_arena(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(connected(server)) for _ in range(2)]
        for line in lines:
            line.sendall(RAW_CHUNKED)
            for _ in range(40):
                line.sendall(chunk(bytes(MIB)))
        until(lambda: used(server) >= 128 * MIB, "two have grown to the limit")
        with connected(server) as third:
            third.sendall(RAW_CHUNKED + chunk(bytes(MIB)))
            status, answer = read_answer(third)
            assert status.startswith(b"HTTP/1.1 503"), (status, answer)
        for line in lines:
            line.sendall(b"0\r\n\r\n")
            assert read_answer(line)[1] == bytes(40 * MIB)
    until(lambda: all_is_free(server), "every slot is free")


@pytest.mark.parametrize("part", [1, 100_000, 3 * MIB])
def test_a_client_that_leaves_a_growing_body_leaves_nothing_behind(server: Server, part: int) -> None:
    with connected(server) as line:
        line.sendall(RAW_CHUNKED + chunk(bytes(part)))
        until(lambda: not all_is_free(server), "the body has its slot")
    until(lambda: all_is_free(server), "every slot is free")


def used(server: Server) -> float:
    lines = httpx.get(server.url + "/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("podium_arena_bytes{") and 'state="used"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)
