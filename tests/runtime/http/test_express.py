"""The express lane: ordinary requests are answered as the usual way answers them, byte for byte."""

import json
import socket
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from tests.runtime.serving.processes import Server, until

INFER = "/v2/models/scale/infer"
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2.5, -3e-7]}
CHANGING = {"traceparent", "date"}


def both_ways(client: httpx.Client, path: str, body: bytes) -> tuple[httpx.Response, httpx.Response]:
    """The answers of the express lane and, since a chunked body is not ordinary, of the usual way."""
    express = client.post(path, content=body, headers={"x-request-id": "one"})
    usual = client.post(path, content=iter([body]), headers={"x-request-id": "one"})
    return express, usual


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": [TENSOR]},
        {"inputs": [TENSOR], "id": "äöü"},
        {"inputs": [TENSOR], "id": 7},
        {"inputs": [TENSOR], "id": "x" * 257},
        {"inputs": [TENSOR], "id": None},
        {"inputs": [TENSOR], "outputs": [{"name": "y"}]},
        {"inputs": [TENSOR], "outputs": [{"name": "z"}]},
        {"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {"inputs": [TENSOR], "parameters": {"timeout": 0}},
        {"inputs": [TENSOR], "more": 1},
        {"inputs": [TENSOR, TENSOR]},
        {"inputs": [TENSOR, {**TENSOR, "name": "bias"}]},
        {"inputs": [{**TENSOR, "name": "z"}]},
        {"inputs": [{**TENSOR, "shape": [True, 3]}]},
        {"inputs": [{**TENSOR, "shape": [1.0, 3]}]},
        {"inputs": [{**TENSOR, "shape": [[1], 3]}]},
        {"inputs": [{**TENSOR, "shape": "13"}]},
        {"inputs": [{**TENSOR, "shape": [3]}]},
        {"inputs": [{**TENSOR, "datatype": "FP16"}]},
        {"inputs": [{**TENSOR, "datatype": ["FP32"]}]},
        {"inputs": [{**TENSOR, "data": [[1, 2, 3]]}]},
        {"inputs": [{**TENSOR, "data": [True, 2, 3]}]},
        {"inputs": [{**TENSOR, "data": ["1", 2, 3]}]},
        {"inputs": [{**TENSOR, "data": [1, 2]}]},
        {"inputs": [{**TENSOR, "data": [1, 2, 1e39]}]},
        {"inputs": [{**TENSOR, "data": {"0": 1}}]},
        {"inputs": [{**TENSOR, "parameters": {}}]},
        {"inputs": [{**TENSOR, "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}]},
        {"inputs": [[]]},
        {"inputs": []},
        {},
        [],
    ],
)
def test_both_ways_answer_alike(client: httpx.Client, document: object) -> None:
    assert client.post(INFER, json={"inputs": [TENSOR]}).status_code == 200  # so that its layout has been seen
    for _ in range(2):
        express, usual = both_ways(client, INFER, json.dumps(document).encode())
        assert (express.status_code, express.content) == (usual.status_code, usual.content)
        assert described(express) == described(usual)
        assert express.headers["x-request-id"] == "one"


def described(answer: httpx.Response) -> Mapping[str, str]:
    headers = {name: value for name, value in answer.headers.items() if name not in CHANGING}
    return {**headers, **dict.fromkeys(CHANGING & answer.headers.keys(), "")}


@pytest.mark.parametrize("body", [b"", b"{", b'{"inputs": 1}', b"[" * 40 + b"]" * 40, b"\xff"])
def test_a_body_that_is_no_request_is_refused_alike(client: httpx.Client, body: bytes) -> None:
    express, usual = both_ways(client, INFER, body)
    assert (express.status_code, express.content) == (usual.status_code, usual.content)


def test_named_tensors_take_the_lane_too(client: httpx.Client) -> None:
    for document in ({"inputs": {"x": [[1, 2, 3]]}}, {"inputs": {"x": "no"}}, {"inputs": {"x": [[1, 2, 3]]}, "no": 1}):
        express, usual = both_ways(client, "/v1/models/scale:predict", json.dumps(document).encode())
        assert (express.status_code, express.content) == (usual.status_code, usual.content)


def test_an_unknown_model_and_a_version_are_found_or_not_alike(client: httpx.Client) -> None:
    body = json.dumps({"inputs": [TENSOR]}).encode()
    for path in ("/v2/models/none/infer", "/v2/models/scale/versions/9/infer", "/v2/models/route/infer"):
        express, usual = both_ways(client, path, body)
        assert (express.status_code, express.content) == (usual.status_code, usual.content)


def test_a_deadline_ends_a_request_that_no_task_waits_for(client: httpx.Client) -> None:
    document = moody(3)
    answer = client.post("/v2/models/moody/infer", json={**document, "parameters": {"timeout": 100_000}})
    assert answer.status_code == 504
    until(lambda: client.post("/v2/models/moody/infer", json=moody(0)).status_code == 200, "the worker is free", 20)


def test_a_client_that_leaves_frees_its_place(server: Server, client: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as left:
        left.sendall(request("/v2/models/moody/infer", moody(3)))
        until(lambda: "podium_requests_in_flight 1.0" in client.get("/metrics").text, "the request is under way", 20)
    until(lambda: "podium_requests_in_flight 0.0" in client.get("/metrics").text, "nothing in flight", 20)
    until(lambda: client.post("/v2/models/moody/infer", json=moody(0)).status_code == 200, "the worker is free", 20)


def test_the_death_of_the_worker_is_the_answer(client: httpx.Client) -> None:
    answer = client.post("/v2/models/moody/infer", json=moody(2))
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    until(lambda: client.post("/v2/models/moody/infer", json=moody(0)).status_code == 200, "the worker is back", 20)


def test_requests_sent_at_once_are_answered_in_order(server: Server) -> None:
    documents = [{"id": f"r{number}", "inputs": [{**TENSOR, "data": [number, 0, 0]}]} for number in range(5)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        line.sendall(b"".join(request(INFER, document) for document in documents))
        reader = line.makefile("rb")
        for number in range(5):
            answer = read_answer(reader)
            assert answer["id"] == f"r{number}"
            assert answer["outputs"][0]["data"] == [2 * number, 0, 0]


def test_a_body_that_comes_in_pieces_is_put_together(server: Server) -> None:
    whole = request(INFER, {"inputs": [TENSOR]})
    for cut in (1, whole.index(b"\r\n\r\n") + 2, whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.sendall(whole[:cut])
            line.sendall(whole[cut:])
            assert read_answer(line.makefile("rb"))["outputs"][0]["shape"] == [1, 3]


def test_a_connection_that_is_to_close_closes_after_the_answer(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        line.sendall(request(INFER, {"inputs": [TENSOR]}, "Connection: close\r\n"))
        answer = line.makefile("rb").read()
    assert b"connection: close" in answer.partition(b"\r\n\r\n")[0]
    assert answer.endswith(b"]}]}")


def moody(order: int) -> dict[str, Any]:
    return {"inputs": [{"name": "order", "datatype": "INT64", "shape": [1], "data": [order]}]}


def request(path: str, document: object, headers: str = "") -> bytes:
    body = json.dumps(document).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_answer(reader: Any) -> Any:
    """The JSON of the next answer on a connection."""
    length = 0
    while (line := reader.readline()) != b"\r\n":
        assert line, "the connection ended inside a head"
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return json.loads(reader.read(length))


def numbered(number: int) -> dict[str, Any]:
    """A request of which each has as many bytes as the others."""
    return {"id": f"r{number}", "inputs": [{**TENSOR, "data": [number, 0, 0]}]}


def is_answer(answer: Any, number: int) -> bool:
    return answer["id"] == f"r{number}" and answer["outputs"][0]["data"] == [2 * number, 0, 0]


def test_a_head_that_came_before_is_taken_for_what_comes_with_it_now(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = line.makefile("rb")

        def asked(*pieces: bytes) -> Any:
            for piece in pieces:
                line.sendall(piece)
            return read_answer(reader)

        for number in range(3):
            assert is_answer(asked(request(INFER, numbered(number))), number)
        whole = request(INFER, numbered(3))
        assert is_answer(asked(whole[:-5], whole[-5:]), 3), "its body in two pieces"
        line.sendall(request(INFER, numbered(4)) + request(INFER, numbered(5)) + whole[:-5])
        assert is_answer(read_answer(reader), 4)
        assert is_answer(read_answer(reader), 5)
        assert is_answer(asked(whole[-5:]), 3), "two at once, and most of a third"
        assert is_answer(asked(request(INFER, numbered(6))), 6)
        assert "error" in asked(request(INFER, {**numbered(7), "inputs": "none"}))
        assert is_answer(asked(request(INFER, numbered(8))), 8)


def test_a_known_head_with_another_request_s_id_is_answered_with_that_id(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        reader = line.makefile("rb")
        for name in ("one", "two", "one"):
            line.sendall(request(INFER, numbered(1), f"X-Request-Id: {name}\r\n"))
            assert f"x-request-id: {name}\r\n".encode() in head_of(reader)


def test_a_known_head_is_forgotten_with_the_connection_it_ends(server: Server) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
            line.sendall(request(INFER, numbered(1), "Connection: close\r\n"))
            assert b"connection: close" in line.makefile("rb").read().partition(b"\r\n\r\n")[0]


def test_what_is_no_request_after_a_known_one_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        reader = line.makefile("rb")
        for number in range(2):
            line.sendall(request(INFER, numbered(number)))
            assert is_answer(read_answer(reader), number)
        line.sendall(b"\0" + request(INFER, numbered(2)))
        assert b" 400 " in reader.readline()
        assert b"connection: close" in reader.read()


def head_of(reader: Any) -> bytes:
    """The head of the next answer on a connection, whose body is read, too."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += reader.readline()
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    reader.read(length)
    return head
