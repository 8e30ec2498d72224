"""Connections that mean harm, over raw sockets: each is refused early, and leaves no slot, fd or wedge behind."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.runtime.http.test_hostile_requests import GOOD, PREDICT, raw
from tests.runtime.serving.processes import Server, until

CHUNKED = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()
SLOTS = re.compile(r'podium_arena_bytes\{class="[^"]+",state="used"\} (\S+)')


@pytest.fixture(autouse=True)
def leaves_nothing(server: Server, client: httpx.Client) -> Iterator[None]:
    """After each test: as many descriptors as before, no arena byte in use, nothing in flight, and still answering."""
    assert client.post(PREDICT, json=GOOD).status_code == 200
    before = open_files(server)
    yield
    until(lambda: open_files(server) <= before, "descriptors are given back", 20)
    until(
        lambda: sum(float(used) for used in SLOTS.findall(client.get("/metrics").text)) == 0, "the arena is empty", 20
    )
    until(lambda: "podium_requests_in_flight 0.0" in client.get("/metrics").text, "nothing in flight", 20)
    assert client.post(PREDICT, json=GOOD).status_code == 200


def open_files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".encode(), 400),
        (f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello".encode(), 400),
        (f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello".encode(), 400),
        (f"POST {PREDICT} HTTP/1.1\r\nContent-Length: -5\r\n\r\nhello".encode(), 400),
        (f"POST {PREDICT} HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".encode(), 501),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nA: b\n\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET \xff HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000, 431),
        (CHUNKED + b"\r\n" + b"zz\r\n", 400),
        (CHUNKED + b"\r\n" + b"fffffffffffffffff\r\n", 400),
        (CHUNKED + b"\r\n" + b"1\r\n[\r\n" * 70_000, 413),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_a_bad_request_is_refused_with_the_one_body(server: Server, payload: bytes, status: int) -> None:
    try:
        answer = raw(server, payload)
    except (ConnectionResetError, BrokenPipeError):  # it closed while we were still sending
        return
    assert status_of(answer) == status, answer[:200]
    assert b'"code":' in answer


def test_a_trailer_is_no_header(server: Server) -> None:
    body = b'{"inputs": {"x": [[1, 2, 3]]}}'
    payload = CHUNKED + b"\r\n%x\r\n%b\r\n0\r\nx-request-id: from-the-trailer\r\n\r\n" % (len(body), body)
    answer = raw(server, payload)
    assert status_of(answer) == 200
    assert b"from-the-trailer" not in answer


def test_a_websocket_upgrade_is_answered_as_http(server: Server) -> None:
    answer = raw(server, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert status_of(answer) == 200
    assert b"connection: close" in answer.lower()


def test_bodies_cut_off_at_any_point_leave_nothing(server: Server) -> None:
    body = b'{"inputs":[{"name":"t","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    head = f"POST /v2/models/echo/infer HTTP/1.1\r\nInference-Header-Content-Length: {len(body)}\r\n"
    whole = head.encode() + f"Content-Length: {len(body) + 8}\r\n\r\n".encode() + body + b"12345678"
    for cut in range(0, len(whole), 7):
        raw(server, whole[:cut], hang_up=True)


def test_large_declared_inputs_that_never_come_hold_no_slot(server: Server) -> None:
    size = 4 << 20
    body = b'{"inputs":[{"name":"t","datatype":"FP32","shape":[1,%d],"parameters":{"binary_data_size":%d}}]}' % (
        size // 4,
        size,
    )
    head = f"POST /v2/models/echo/infer HTTP/1.1\r\nInference-Header-Content-Length: {len(body)}\r\n"
    for _ in range(8):
        raw(server, head.encode() + f"Content-Length: {len(body) + size}\r\n\r\n".encode() + body, hang_up=True)


def test_a_head_that_trickles_is_ended(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\n")
        assert trickle(connection, b"a: b\r\n").startswith(b"HTTP/1.1 408 ")


def test_a_body_that_trickles_is_ended(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".encode())
        assert trickle(connection, b" ").startswith(b"HTTP/1.1 408 ")


def trickle(connection: socket.socket, piece: bytes) -> bytes:
    """Sends a piece now and then until there is an answer."""
    deadline = time.monotonic() + 40
    connection.settimeout(0.5)
    while time.monotonic() < deadline:
        try:
            return connection.recv(4096)
        except TimeoutError:
            connection.sendall(piece)
    raise AssertionError("no answer")


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    one = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(one * 200 + last)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.count(b'{"live":true}') == 200
    assert answer.endswith(b'{"ready":true}')
