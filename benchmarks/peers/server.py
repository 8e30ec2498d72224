"""A server process that is measured: started on given processors, asked until it answers, ended by pid."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.peers.wire import Wire
from benchmarks.processes import tree
from benchmarks.served import free_port

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started."""

    command: list[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """One server with one setting. `launch` gets a free port and a directory of its own; it may raise NotToBeHad."""

    name: str
    wire: Wire
    launch: Callable[[int, Path], Launch]
    ready_path: str = "/"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    contender: Contender
    port: int
    pid: int

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self.port}{self.contender.wire.path}"

    def ask(self, body: bytes) -> bytes:
        """One answer. Raises on anything but 200."""
        answer = httpx.post(self.url, content=body, headers={"content-type": "application/json"}, timeout=30.0)
        answer.raise_for_status()
        return answer.content


@contextmanager
def running(contender: Contender, cpus: set[int]) -> Iterator[Running]:
    """That server and all its processes on `cpus`. Raises NotToBeHad, RuntimeError where it does not come up."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as directory:
        port = free_port()
        launch = contender.launch(port, Path(directory))
        log = Path(directory) / "server.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                ["taskset", "-c", ",".join(map(str, sorted(cpus))), *launch.command],
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                cwd=directory,
                env={**os.environ, **launch.env},
            )
        try:
            _wait(contender, port, process, log)
            yield Running(contender, port, process.pid)
        finally:
            _end(process)


def _wait(contender: Contender, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{contender.name} ended with {process.returncode}:\n{_tail(log)}")
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}{contender.ready_path}", timeout=1.0)
            if answer.status_code < 500:
                return
        except httpx.TransportError:
            pass
        time.sleep(POLL_S)
    raise RuntimeError(f"{contender.name} was not ready after {READY_TIMEOUT_S:g} s:\n{_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and whatever it leaves behind."""
    family = tree(process.pid)
    process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=STOP_TIMEOUT_S)
    for pid in family[1:]:
        if Path(f"/proc/{pid}").exists() and pid in family:
            _kill(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
