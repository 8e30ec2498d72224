"""A `podium serve -f` process to measure: started on a free port, asked, and ended by pid."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

DEADLINE_S = 120.0
POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    url: str
    pid: int

    def predict(self, model: str, inputs: Mapping[str, object]) -> Mapping[str, object]:
        """Outputs of one request; raises on anything but 200."""
        answer = httpx.post(f"{self.url}/v1/models/{model}:predict", json={"inputs": inputs}, timeout=30.0)
        answer.raise_for_status()
        outputs: Mapping[str, object] = answer.json()["outputs"]
        return outputs


@contextmanager
def served(documents: list[Mapping[str, object]]) -> Iterator[Served]:
    """Serve those resources; ready when the block begins, gone with all its processes when it ends."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as directory:
        file = Path(directory) / "resources.yaml"
        file.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
        port = free_port()
        log = Path(directory) / "log"
        command = [str(Path(sys.executable).with_name("podium")), "serve", "-f", str(file), "--port", str(port)]
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_ready(url, process, log)
            yield Served(url, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until every resource is served."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"podium serve ended with {process.returncode}:\n{log.read_text(errors='replace')}")
        try:
            if httpx.get(f"{url}/v2/health/ready", timeout=1.0).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(POLL_S)
    raise TimeoutError(f"not ready after {DEADLINE_S:g} s:\n{log.read_text(errors='replace')}")


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
