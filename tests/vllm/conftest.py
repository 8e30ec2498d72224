"""Engine VLLM as its users meet it: `podium serve -f` with a tiny model, asked by the `openai` client.

vLLM pins a torch of its own, so these run under the interpreter of `.venv-vllm` (`make test-vllm`); under another one
there is nothing to collect.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest
from tests.runtime.serving.processes import Podium, podium, until
from tests.vllm.tiny_llama import write_tiny_llama

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

LOAD_S = 420.0
"""vLLM imports for a quarter of a minute in each of two processes, one after the other, on an idle core."""
MODEL = """
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: tiny}}
spec:
  version: "1"
  source: {{uri: "file://{model}"}}
  engine: VLLM
  vllm:
    engineArgs: {engine_args}
  timeoutSeconds: 300
"""
ENGINE_ARGS = "{max_model_len: 8192, max_num_seqs: 8, kv_cache_memory_bytes: 67108864, dtype: float32}"


@dataclass
class Served:
    """A running server with the model `tiny`."""

    process: Podium
    url: str
    file: Path
    """What it serves."""
    client: openai.OpenAI = field(init=False)

    def __post_init__(self) -> None:
        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=120)

    def worker(self) -> int:
        """The pid of the worker, once it is ready."""
        pids = until(self._workers, lambda: f"a worker\n{self.process.tail()}", LOAD_S)
        assert len(pids) == 1, pids
        return pids[0]

    def is_ready(self) -> bool:
        """Whether the model answers."""
        try:
            return httpx.get(f"{self.url}/v2/models/tiny/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def revision(self) -> str:
        """The revision that answers most."""
        return str(httpx.get(f"{self.url}/v1/models/tiny", timeout=30).json()["revision"])

    def measure(self, name: str, revision: str = "tiny") -> float:
        """The sum over the series of that name whose model is tiny; of one revision where it is given."""
        return measured(self.url, name, revision)

    def _workers(self) -> list[int]:
        return [pid for pid in descendants(self.process.pid) if "podium.worker.main" in command(pid)]


def measured(url: str, name: str, word: str) -> float:
    """The sum over the series of that name with the word among its labels."""
    lines = httpx.get(url + "/metrics", timeout=30).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{") and f'"{word}' in line)


def descendants(root: int) -> list[int]:
    """Pids of the children of a process, and of theirs, that have not ended."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents.setdefault(int(parent), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def command(pid: int) -> str:
    """The command line of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether the process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's files."""
    return write_tiny_llama(tmp_path_factory.mktemp("model"), max_positions=8192)


@contextmanager
def serving(folder: Path, text: str) -> Iterator[Served]:
    """`podium serve -f` with a file of that text in `folder`, once its model answers."""
    file = folder / "tiny.yaml"
    file.write_text(text)
    environment = {
        "PODIUM_STATE_DIR": str(folder / "state"),
        "PODIUM_ARENA_BYTES": str(16 << 20),
        "TMPDIR": tempfile.mkdtemp(dir=folder.parent, prefix="t"),
    }
    with podium("serve", "-f", str(file), "--port", "0", **environment) as process:
        url = process.says("listening on", within_s=LOAD_S).split()[2]
        server = Served(process, url, file)
        until(server.is_ready, lambda: f"ready\n{process.tail()}", LOAD_S)
        yield server
        server.client.close()


@pytest.fixture(scope="session")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serving until the last test."""
    with serving(tmp_path_factory.mktemp("served"), MODEL.format(model=tiny_model, engine_args=ENGINE_ARGS)) as server:
        yield server


def session_of(pid: int) -> list[int]:
    """Every process in the session that this one leads."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(entry.name)) == pid and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found
