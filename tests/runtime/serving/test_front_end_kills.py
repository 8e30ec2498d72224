"""SIGKILL for the front end at every point of a request: its client gets a reset, and no process or file is left."""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from tests.runtime.serving.families import family, parents
from tests.runtime.serving.processes import Podium, podium, until
from tests.runtime.worker.stops import STOPS, begun, stop_at, stopped

WIDTH = 30_000


def indented(text: str, spaces: int) -> str:
    lines = [line[4:] for line in text.splitlines()]
    return "\n".join(" " * spaces + line if line else "" for line in lines)


def resources(folder: Path) -> str:
    return f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: code}}
data:
  models.py: |
{indented(STOPS, 4)}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: stops}}
spec:
  source: {{uri: "configmap://code"}}
  engine: Python
  python: {{entrypoint: "models:Model", parameters: {{folder: "{folder}"}}}}
  batching: {{maxBatchSize: 1}}
"""


class Victim:
    """`podium serve` with one model, its folder for temporary files to itself."""

    def __init__(self, process: Podium, temporary: Path) -> None:
        self.process = process
        self.temporary = temporary
        self.url = process.says("listening on").split()[2]

    def becomes_ready(self) -> None:
        until(
            lambda: httpx.get(self.url + "/v2/health/ready").status_code == 200, lambda: f"ready\n{self.process.tail()}"
        )

    def ask(self, number: int, width: int = WIDTH) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, width], "data": [float(number)] * width}
        return httpx.post(self.url + "/v2/models/stops/infer", json={"inputs": [tensor]}, timeout=60)

    def dies(self) -> None:
        """Kills the front end; then whatever it had started must be gone, and its temporary files, too."""
        processes = family(self.process.pid)
        self.process.signal(signal.SIGKILL)
        assert self.process.ends() == -signal.SIGKILL
        until(lambda: not processes & parents().keys(), f"the end of {processes}")
        assert not list(self.temporary.iterdir())


@contextmanager
def victim(folder: Path) -> Iterator[Victim]:
    (folder / "models.yaml").write_text(resources(folder))
    # A socket's path is short, and pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="podium-kills-") as temporary:
        environment = {
            "PODIUM_STATE_DIR": str(folder / "state"),
            "PODIUM_ARENA_BYTES": str(16 << 20),
            "TMPDIR": temporary,
        }
        with podium("serve", "-f", str(folder / "models.yaml"), "--port", "0", **environment) as process:
            yield Victim(process, Path(temporary))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@contextmanager
def slow_reader(front_end: Victim) -> Iterator[socket.socket]:
    """A connection on which an answer of 8 MB begins to arrive, more than the kernel takes off the sender's hands."""
    count = 2_000_000
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,%d],"data":[%s]}]}' % (
        count,
        b",".join([b"1"] * count),
    )
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(60)
        reader.connect(("127.0.0.1", int(front_end.url.rpartition(":")[2])))
        reader.sendall(b"POST /v2/models/stops/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body))
        reader.sendall(body)
        yield reader


def drained(reader: socket.socket) -> int:
    """Bytes that still come until the end of the connection, good or bad."""
    count = 0
    with suppress(ConnectionResetError):
        while piece := reader.recv(1 << 20):
            count += len(piece)
    return count


def is_reset(answer: "Future[httpx.Response]") -> bool:
    return isinstance(answer.exception(60), httpx.TransportError)


@pytest.mark.parametrize("point", ["infer", "after Need", "half written", "before Reply"])
def test_killed_with_requests_in_a_worker_and_in_the_queue(
    tmp_path: Path, pool: ThreadPoolExecutor, point: str
) -> None:
    with victim(tmp_path) as front_end:
        front_end.becomes_ready()
        stop_at(tmp_path, point)
        answers = [pool.submit(front_end.ask, number) for number in (1, 2, 3)]
        until(lambda: stopped(tmp_path), f"the worker at {point}")
        front_end.dies()
        assert all(is_reset(answer) for answer in answers)
    assert len(begun(tmp_path)) == 1


def test_killed_while_a_worker_is_stopped(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with victim(tmp_path) as front_end:
        front_end.becomes_ready()
        stop_at(tmp_path, "infer")
        answer = pool.submit(front_end.ask, 1)
        worker = until(lambda: stopped(tmp_path), "the worker in infer")
        os.kill(worker, signal.SIGSTOP)
        front_end.dies()
        assert is_reset(answer)


def test_killed_while_its_first_worker_loads(tmp_path: Path) -> None:
    stop_at(tmp_path, "load")
    with victim(tmp_path) as front_end:
        until(lambda: stopped(tmp_path), "the worker in load")
        front_end.dies()


def test_killed_while_idle_and_while_the_fork_server_is_stopped(tmp_path: Path) -> None:
    with victim(tmp_path) as front_end:
        front_end.becomes_ready()
        assert front_end.ask(1, 4).json()["outputs"][0]["data"] == [2.0] * 4
        for pid in family(front_end.process.pid) - {front_end.process.pid}:
            os.kill(pid, signal.SIGSTOP)
        front_end.dies()


def test_killed_while_a_body_comes_in_and_while_an_answer_goes_out(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with victim(tmp_path) as front_end:
        front_end.becomes_ready()
        half_sent, killed = threading.Event(), threading.Event()

        def body() -> Iterator[bytes]:
            yield b'{"inputs": ['
            half_sent.set()
            killed.wait(60)

        sending = pool.submit(httpx.post, front_end.url + "/v2/models/stops/infer", content=body(), timeout=60)
        assert half_sent.wait(60)
        with slow_reader(front_end) as reader:
            started = reader.recv(1000)
            length = int(started.split(b"content-length: ")[1].split(b"\r\n")[0])
            front_end.dies()
            killed.set()
            assert len(started) + drained(reader) < length
        assert is_reset(sending)


def test_killed_in_the_drain(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with victim(tmp_path) as front_end:
        front_end.becomes_ready()
        stop_at(tmp_path, "infer")
        answer = pool.submit(front_end.ask, 1)
        until(lambda: stopped(tmp_path), "the worker in infer")
        front_end.process.signal(signal.SIGTERM)
        front_end.process.says("stopping")
        front_end.dies()
        assert is_reset(answer)
