"""Server-sent events of a real server: forms, errors before and after the first byte, clients that leave or stop."""

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.runtime.serving.processes import Server, podium, served, until

from podium.client import Client, ClientError

YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    import os
    import numpy as np

    class Count:
        open = opened = 0

        def infer(self, inputs):
            return {"n": np.array([[Count.open, Count.opened, os.getpid()]] * len(inputs["n"]))}

        def infer_stream(self, inputs):
            count = int(inputs["n"].reshape(-1)[0])
            Count.open += 1
            Count.opened += 1
            try:
                if count < 0:
                    raise ValueError("below zero")
                for index in range(count):
                    if index == 13:
                        raise ValueError("thirteen is right out")
                    yield {"n": np.array([index]), "word": np.array([f"w{index}"], object)}
            finally:
                Count.open -= 1

    class Endless(Count):
        def infer_stream(self, inputs):
            Count.open += 1
            Count.opened += 1
            try:
                while True:
                    yield {"bulk": np.zeros(4000, np.uint8)}
            finally:
                Count.open -= 1

    class Plain:
        def infer(self, inputs):
            return dict(inputs)
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: count}
spec:
  version: "7"
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Count"}
  inputs: [{name: n, dtype: INT64, shape: [-1, 1]}]
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: endless}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Endless"}
  batching: {maxConcurrentStreams: 33}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: hasty}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Endless", parameters: {of: its own}}
  timeoutSeconds: 1
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: plain}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Plain"}
"""
EVENTS = {"Accept": "text/event-stream"}
ESTABLISHED = "01"
ANYTHING = {"inputs": {"n": {"dtype": "INT64", "shape": [1, 1], "data": [[1]]}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of this module alone: its workers are killed."""
    with served(tmp_path_factory.mktemp("streams"), YAML) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as made:
        yield made


def events(text: str) -> list[tuple[str, Any]]:
    """(event, data) of each event; comments left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def count_to(client: httpx.Client, n: int, path: str = "/v1/models/count:predict") -> httpx.Response:
    return client.post(path, json={"inputs": {"n": [[n]]}}, headers=EVENTS)


def counters(client: httpx.Client, model: str = "count") -> list[int]:
    """Open streams, opened ones, and the pid, as the model itself says."""
    answer = client.post(f"/v1/models/{model}:predict", json=ANYTHING)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["outputs"]["n"]["data"][0]
    return found


@pytest.mark.parametrize(
    "path", ["/v1/models/count:predict", "/v1/models/count:stream", "/v1/models/count/versions/7:stream"]
)
def test_a_stream_is_events_with_the_outputs_and_an_end(client: httpx.Client, path: str) -> None:
    answer = count_to(client, 3, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["podium-revision"].startswith("count-")
    heard = events(answer.text)
    assert [data["outputs"]["n"]["data"] for _, data in heard[:-1]] == [[0], [1], [2]]
    assert heard[0][1]["outputs"]["word"] == {"dtype": "BYTES", "shape": [1], "data": ["w0"]}
    assert heard[-1] == ("end", {"chunks": 3})


def test_an_answer_at_once_stays_one_for_who_does_not_ask_for_events(client: httpx.Client) -> None:
    assert client.post("/v1/models/count:predict", json=ANYTHING).headers["content-type"] == "application/json"


def test_only_the_outputs_asked_for_are_sent(client: httpx.Client) -> None:
    body = {"inputs": {"n": [[1]]}, "outputs": ["word"]}
    heard = events(client.post("/v1/models/count:stream", json=body).text)
    assert list(heard[0][1]["outputs"]) == ["word"]


def test_an_empty_stream_is_an_end(client: httpx.Client) -> None:
    assert events(count_to(client, 0).text) == [("end", {"chunks": 0})]


def test_an_error_before_the_first_chunk_has_its_status(client: httpx.Client) -> None:
    answer = count_to(client, -1)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "model_error"
    assert client.post("/v1/models/count:stream", json={"inputs": {}}).status_code == 422
    assert client.post("/v1/models/absent:stream", json=ANYTHING).status_code == 404
    assert client.get("/v1/models/count:stream").status_code == 405


def test_an_error_after_the_first_chunk_is_a_last_event(client: httpx.Client) -> None:
    answer = count_to(client, 20)
    assert answer.status_code == 200
    heard = events(answer.text)
    assert len(heard) == 14
    kind, data = heard[-1]
    assert kind == "error"
    assert data["error"]["code"] == "model_error"
    assert "thirteen" in data["error"]["message"]
    assert data["error"]["request_id"] == answer.headers["x-request-id"]


def test_a_model_that_does_not_stream_says_so(client: httpx.Client) -> None:
    answer = client.post("/v1/models/plain:stream", json=ANYTHING)
    assert answer.status_code == 406
    assert "infer_stream" in answer.json()["error"]["message"]


def test_tritons_generate_stream(client: httpx.Client) -> None:
    answer = client.post("/v2/models/count/generate_stream", json={"n": 2, "id": "x", "parameters": {"top_k": 1}})
    assert [data for _, data in events(answer.text)] == [
        {"model_name": "count", "model_version": "7", "n": 0, "word": "w0"},
        {"model_name": "count", "model_version": "7", "n": 1, "word": "w1"},
    ]
    refused = client.post("/v2/models/count/generate_stream", json={"m": 2})
    assert refused.status_code == 422
    assert "unknown input 'm'; expected one of n" in refused.json()["error"]


def test_a_client_that_leaves_closes_the_generator(client: httpx.Client) -> None:
    before = counters(client, "endless")
    for _ in range(3):
        with client.stream("POST", "/v1/models/endless:stream", json=ANYTHING) as answer:
            next(answer.iter_bytes())
    until(lambda: counters(client, "endless")[0] == before[0] == 0, "every generator is closed")
    assert counters(client, "endless")[1] == before[1] + 3


@contextlib.contextmanager
def a_stopped_reader(server: Server, model: str) -> Iterator[socket.socket]:
    """Asks for a stream and reads nothing of it."""
    body = json.dumps(ANYTHING).encode()
    head = f"POST /v1/models/{model}:stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head.encode() + body)
        yield connection


def server_side(server: Server, connection: socket.socket) -> str:
    """State of the server's end of a connection, as the kernel names it; empty where it is gone."""
    ends = f"0100007F:{server.port:04X} 0100007F:{connection.getsockname()[1]:04X} "
    table = Path("/proc/net/tcp").read_text(encoding="ascii")
    return next((line.partition(ends)[2][:2] for line in table.splitlines() if ends in line), "")


def test_thirty_one_streams_do_not_notice_a_reader_that_stopped(server: Server, client: httpx.Client) -> None:
    with a_stopped_reader(server, "endless"), contextlib.ExitStack() as stack:
        until(lambda: counters(client, "endless")[0] == 1, "the stopped one is open")
        open_pieces: list[Iterator[bytes]] = []  # one that is let go of closes its response
        readers = [stack.enter_context(httpx.Client(base_url=server.url, timeout=30)) for _ in range(31)]
        answers = [
            stack.enter_context(reader.stream("POST", "/v1/models/endless:stream", json=ANYTHING)) for reader in readers
        ]
        for pieces in [answer.iter_bytes() for answer in answers]:
            seen = 0
            while seen < 1 << 20:  # four windows: what one reader leaves unread holds up none of these
                seen += len(next(pieces))
            open_pieces.append(pieces)
        assert counters(client, "endless")[0] == 32
    until(lambda: counters(client, "endless")[0] == 0, "every generator is closed")


def test_one_stream_more_than_allowed_is_refused(server: Server, client: httpx.Client) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(33):
            stack.enter_context(a_stopped_reader(server, "endless"))
        until(lambda: counters(client, "endless")[0] == 33, "all are open")
        answer = client.post("/v1/models/endless:stream", json=ANYTHING)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "streams_full"
        assert answer.headers["retry-after"]
    until(lambda: counters(client, "endless")[0] == 0, "every generator is closed")


def test_the_deadline_ends_a_stream_with_a_last_event(client: httpx.Client) -> None:
    kind, data = events(client.post("/v1/models/hasty:stream", json=ANYTHING).text)[-1]
    assert (kind, data["error"]["code"]) == ("error", "deadline_exceeded")
    until(lambda: counters(client, "hasty")[0] == 0, "the generator is closed")


def test_a_reader_that_stops_is_cut_at_the_deadline(server: Server, client: httpx.Client) -> None:
    with a_stopped_reader(server, "hasty") as connection:
        until(lambda: stream_metric(client, "active", "hasty") == 1, "it has begun")
        until(lambda: stream_metric(client, "active", "hasty") == 0, "it is over")
        until(lambda: counters(client, "hasty")[0] == 0, "the generator is closed")
        until(lambda: server_side(server, connection) != ESTABLISHED, "the connection is cut, though nothing was read")


def test_a_killed_worker_ends_its_streams_with_a_type_and_serves_again(client: httpx.Client) -> None:
    pid = counters(client, "endless")[2]
    with client.stream("POST", "/v1/models/endless:stream", json=ANYTHING) as answer:
        pieces = answer.iter_text()
        text = next(pieces)
        os.kill(pid, signal.SIGKILL)
        text = "".join([text, *pieces])
    kind, data = events(text)[-1]
    assert (kind, data["error"]["code"], data["error"]["retryable"]) == ("error", "worker_died", True)
    assert counters(client, "endless")[2] != pid


def stream_metric(client: httpx.Client, name: str, model: str) -> float:
    text = client.get("/metrics").text
    found = re.search(rf'^podium_streams?_{name}{{model="{model}",revision="[^"]*"}} (\S+)$', text, re.MULTILINE)
    assert found, text
    return float(found[1])


def test_streams_are_counted_by_model_and_revision(client: httpx.Client) -> None:
    chunks, cancelled = (
        stream_metric(client, "chunks_total", "count"),
        stream_metric(client, "cancelled_total", "endless"),
    )
    first = stream_metric(client, "first_chunk_seconds_count", "count")
    count_to(client, 5)
    with client.stream("POST", "/v1/models/endless:stream", json=ANYTHING) as answer:
        read = answer.iter_bytes()  # kept: the client hangs up with the last reference to it
        next(read)
        assert stream_metric(client, "active", "endless") == 1
    assert stream_metric(client, "chunks_total", "count") == chunks + 5
    assert stream_metric(client, "first_chunk_seconds_count", "count") == first + 1
    until(lambda: stream_metric(client, "cancelled_total", "endless") == cancelled + 1, "counted as cancelled")
    until(lambda: stream_metric(client, "active", "endless") == 0, "none is active")


def test_the_client_library_streams(server: Server) -> None:
    with Client(server.url) as client:
        seen = [chunk["n"]["data"] for chunk in client.stream("count", {"n": [[4]]})]
        assert seen == [[0], [1], [2], [3]]
        chunks = client.stream("count", {"n": [[20]]})
        got = []
        with pytest.raises(ClientError, match="thirteen") as failed:
            got.extend(chunks)
        assert failed.value.code == "model_error"
        with pytest.raises(ClientError, match="406"):
            next(client.stream("plain", {"n": {"dtype": "INT64", "shape": [1], "data": [1]}}))


def test_podium_call_prints_a_line_for_each_chunk(server: Server) -> None:
    with podium("call", "count", "-i", "n=[[2]]", "--stream", "--url", server.url) as process:
        process.says('"w1"')
        assert process.ends() == 0
