"""Bodies and connections that mean harm: refused early, and the server goes on."""

import re
import socket

import httpx
import pytest
from tests.runtime.serving.processes import Server, until

PREDICT = "/v1/models/scale:predict"
GOOD = {"inputs": {"x": [[1.0, 2.0, 3.0]]}}


def raw(server: Server, payload: bytes, *, hang_up: bool = False) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(payload)
        if hang_up:
            return b""
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
            head, found, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if found and length and len(body) >= int(length[1]):
                break
        return answer


def head(length: int | str, path: str = PREDICT) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_body_above_the_limit_is_refused_from_its_head_alone(server: Server) -> None:
    answer = raw(server, head(1 << 40))
    assert b" 413 " in answer.splitlines()[0]


def test_large_json_is_413_and_names_the_binary_extension(server: Server, client: httpx.Client) -> None:
    answer = raw(server, head((8 << 20) + 1))
    assert b" 413 " in answer.splitlines()[0]
    assert b"Inference-Header-Content-Length" in answer
    chunks = (b"[" + b"1," * 500_000 for _ in range(9))
    assert client.post(PREDICT, content=chunks).status_code == 413


def test_what_is_not_json_is_422(client: httpx.Client) -> None:
    for body in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"inputs": NaN}', b"[1, 2]"):
        answer = client.post(PREDICT, content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input"), body[:20]


def test_a_compressed_body_is_415(client: httpx.Client) -> None:
    assert client.post(PREDICT, content=b"x", headers={"content-encoding": "gzip"}).status_code == 415


@pytest.mark.parametrize("priority", [-1, 10, 1.5, "1", True])
def test_a_priority_that_is_none_is_422(client: httpx.Client, priority: object) -> None:
    answer = client.post(PREDICT, json={**GOOD, "priority": priority})
    assert answer.status_code == 422
    assert "priority" in answer.json()["error"]["message"]


def test_unknown_keys_and_bad_timeouts_are_422(client: httpx.Client) -> None:
    for more in ({"extra": 1}, {"timeout_ms": 0}, {"timeout_ms": "5"}, {"timeout_ms": True}, {"outputs": []}):
        assert client.post(PREDICT, json={**GOOD, **more}).status_code == 422, more


def test_made_up_model_names_never_become_labels(client: httpx.Client) -> None:
    client.post("/v1/models/made-up-name:predict", json=GOOD)
    client.post(PREDICT, json=GOOD)
    page = client.get("/metrics").text
    assert "made-up-name" not in page
    assert 'podium_requests_total{code="200",model="scale"' in page
    assert "podium_request_duration_seconds_bucket" in page
    assert 'podium_arena_bytes{class="run",state="free"}' in page
    assert "podium_queue_depth{" in page
    assert "podium_batch_size_bucket{" in page


def test_clients_that_hang_up_leave_nothing_behind(server: Server, client: httpx.Client) -> None:
    for payload in (b"POST ", head(100), head(100) + b'{"inputs"', b"\x00\x01\x02\r\n\r\n"):
        raw(server, payload, hang_up=True)
    slow = b'{"inputs": {"order": [3]}, "timeout_ms": 20000}'
    raw(server, head(len(slow), "/v1/models/moody:predict") + slow, hang_up=True)
    assert client.post(PREDICT, json=GOOD).status_code == 200
    page = client.get("/metrics").text
    assert "podium_requests_in_flight 0.0" in page or "podium_requests_in_flight 1.0" in page


def test_garbage_instead_of_http_is_400(server: Server) -> None:
    assert b" 400 " in raw(server, b"\x16\x03\x01 hello\r\n\r\n").splitlines()[0]


def test_a_client_that_leaves_takes_its_request_with_it(server: Server, client: httpx.Client) -> None:
    body = b'{"inputs": {"order": [3]}}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head(len(body), "/v1/models/moody:predict") + body)
        until(lambda: 1 in in_flight(client), "it is in flight")
    until(lambda: 1 not in in_flight(client), "it has left")
    assert 'podium_requests_total{code="499",model="moody"' in client.get("/metrics").text


def in_flight(client: httpx.Client) -> list[int]:
    page = client.get("/metrics").text
    return [int(float(count)) for count in re.findall(r'podium_in_flight\{model="moody",[^}]*\} (\S+)', page)]
