"""Chains of steps that give a tensor on: pipelines of one pod, and the same steps as services of their own."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import orjson

from benchmarks import sockets
from benchmarks.peers import contenders, wire
from benchmarks.peers.environments import Environment, NotToBeHad
from benchmarks.peers.server import Contender, Launch, running
from benchmarks.served import served

RAY = Environment("ray-2.60.0", ("ray[serve]==2.60.0", "numpy==2.4.6"))
SERVICES = 3
MEMBERS = 3
"""Of each chain, a process each: a hop goes from one to another."""
ARENA_BYTES = 512 << 20
LENGTH = "inference-header-content-length"
TENSOR = [{"name": "x", "dtype": "FP32", "shape": [-1, -1]}]
KINDS = {
    "passed": "return {'x': inputs['x']}",
    "placed": "x = self.ctx.output('x', inputs['x'].shape); x[:] = inputs['x']; return {'x': x}",
    "fresh": "return {'x': inputs['x'] + 0}",
}
"""What a step does with its tensor."""
CODE = "class Model:\n    def load(self, ctx):\n        self.ctx = ctx\n    def infer(self, inputs):\n        {body}\n"
_INFER = re.compile(r'podium_batch_stage_seconds_sum\{.*?model="(?P<model>[^"]+)".*?stage="infer".*?\} (?P<sum>\S+)')


Parts = Sequence[bytes | memoryview]
"""Of a body, sent one after the other: what is large is not copied to be put behind what is small."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a tensor of one row is sent, and a step's answer sent on to the next."""

    first: Callable[[bytes], Parts]
    """FP32 bytes → body."""
    onward: Callable[[memoryview, int], Parts]
    """(answer, bytes of the tensor) → body of the next request."""
    tensor: Callable[[memoryview, int], memoryview | bytes]
    """(answer, bytes of the tensor) → FP32 bytes."""
    header_bytes: Callable[[int], int] = lambda _: 0
    """Bytes of the tensor → length of the JSON before it; 0: none."""


@dataclass(frozen=True, slots=True)
class Way:
    """Addresses that are asked one after the other, each with what the one before answered."""

    name: str
    urls: tuple[str, ...]
    protocol: Protocol
    pipeline: str = ""
    """Its name, for the time in its models."""


class Asker:
    """A client with a connection to each address of a way, kept."""

    def __init__(self, way: Way) -> None:
        """Connects; `close` it."""
        self._protocol = way.protocol
        self._heads: list[str] = []
        self._lines: list[socket.socket] = []
        self._memory = bytearray()
        for url in way.urls:
            parsed = httpx.URL(url)
            self._heads.append(f"POST {parsed.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
            self._lines.append(socket.create_connection((parsed.host, parsed.port or 80), sockets.TIMEOUT_S))
            self._lines[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def trip_s(self, tensor: bytes) -> float:
        """Seconds from the first byte sent to the last one read. Raises ValueError for another answer."""
        begun = time.perf_counter()
        answer = self.ask(tensor)
        took = time.perf_counter() - begun
        if not sockets.same(self._protocol.tensor(answer, len(tensor)), tensor):
            raise ValueError("another tensor came back than was sent")
        return took

    def ask(self, tensor: bytes) -> memoryview:
        """Body of the last answer, until the next is asked for."""
        body = self._protocol.first(tensor)
        answer = memoryview(b"")
        for number, line in enumerate(self._lines):
            if number:
                body = self._protocol.onward(answer, len(tensor))
            small = len(body) - 1
            head = f"{self._heads[number]}{self._length(len(tensor), sum(map(len, body)))}\r\n".encode()
            line.sendall(b"".join((head, *body[:small])))
            line.sendall(body[small])
            answer = sockets.answer(line, self._memory)
        return answer

    def _length(self, nbytes: int, total: int) -> str:
        header = self._protocol.header_bytes(nbytes)
        return f"content-length: {total}\r\n" + (f"{LENGTH}: {header}\r\n" if header else "")

    def close(self) -> None:
        """Ends the connections."""
        for line in self._lines:
            line.close()


def oip_head(nbytes: int) -> bytes:
    """The JSON before a tensor in binary, which is wanted back in binary."""
    entry = {"name": "x", "datatype": "FP32", "shape": [1, nbytes // 4], "parameters": {"binary_data_size": nbytes}}
    return json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()


OIP = Protocol(
    lambda x: (oip_head(len(x)), x),
    lambda answer, nbytes: (oip_head(nbytes), answer[-nbytes:]),
    lambda answer, nbytes: answer[-nbytes:],
    lambda nbytes: len(oip_head(nbytes)),
)
RAW = Protocol(lambda x: (x,), lambda answer, _: (answer,), lambda answer, _: answer)
JSON = Protocol(
    lambda x: (orjson.dumps({"x": np.frombuffer(x, np.float32).astype(float).tolist()}),),
    lambda answer, _: (answer,),
    lambda answer, _: np.array(orjson.loads(answer)["x"], np.float32).tobytes(),
)


@contextmanager
def pod(chains: Mapping[str, tuple[str, int]]) -> Iterator[tuple[str, list[Way]]]:
    """One pod with a pipeline for each name → (kind, steps): its address and its ways."""
    documents: list[Mapping[str, object]] = [_code(kind) for kind in KINDS]
    documents += [_pipeline(name, kind, steps) for name, (kind, steps) in chains.items()]
    with served(documents) as server:
        yield server.url, [Way(name, (f"{server.url}/v2/models/{name}/infer",), OIP, name) for name in chains]


def model_seconds(url: str, pipeline: str) -> float:
    """Seconds that the models of a pipeline have worked so far."""
    text = httpx.get(f"{url}/metrics", timeout=30.0).text
    return sum(float(found["sum"]) for found in _INFER.finditer(text) if found["model"] == pipeline)


@contextmanager
def services() -> Iterator[tuple[list[Way], list[str]]]:
    """The three steps as servers of their own, which the client asks one after the other; and Ray Serve, which chains
    them itself. And why a peer is missing."""
    ways, missing = [], []
    with ExitStack() as stack:
        hop = {"apiVersion": "podium.dev/v1alpha1", "kind": "InferenceModel", "metadata": {"name": "hop"}}
        spec = {**_member("passed"), "sharedMemory": {"arenaBytes": ARENA_BYTES // SERVICES}}
        hops = [stack.enter_context(served([_code("passed"), {**hop, "spec": spec}])) for _ in range(SERVICES)]
        ways.append(Way("http, Podium", tuple(f"{each.url}/v2/models/hop/infer" for each in hops), OIP))
        program = contenders.own("FastAPI", "fastapi_tensor.py", wire.plain("/raw"))
        roots = [f"http://127.0.0.1:{stack.enter_context(running(program, _CPUS)).port}" for _ in range(SERVICES)]
        ways.append(Way("http, FastAPI, bytes", tuple(f"{root}/raw" for root in roots), RAW))
        ways.append(Way("http, FastAPI, JSON", tuple(f"{root}/json" for root in roots), JSON))
        try:
            ray = stack.enter_context(running(Contender("Ray Serve", wire.plain("/"), _ray), _CPUS))
            ways.append(Way("Ray Serve", (ray.url,), RAW))
        except (NotToBeHad, RuntimeError, TimeoutError) as error:
            missing.append(f"Ray Serve: {error}")
        yield ways, missing


_CPUS = {0, 1}


def _ray(port: int, directory: Path) -> Launch:
    del directory
    program = str(contenders.PROGRAMS / "ray_chain.py")
    return Launch([str(RAY.interpreter()), program, str(port)], {"RAY_USAGE_STATS_ENABLED": "0"})


def _code(kind: str) -> Mapping[str, object]:
    data = {"model.py": CODE.format(body=KINDS[kind])}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": kind}, "data": data}


def _member(kind: str, number: int = 0) -> Mapping[str, object]:
    return {
        "source": {"uri": f"configmap://{kind}"},
        "engine": "Python",
        "python": {"entrypoint": "model:Model", "parameters": {"number": number}},  # workers of their own
        "inputs": TENSOR,
        "outputs": TENSOR,
    }


def _pipeline(name: str, kind: str, steps: int) -> Mapping[str, object]:
    sources = ["request.x", *(f"s{number}.x" for number in range(steps))]
    listed = [
        {"name": f"s{number}", "model": f"m{number % MEMBERS}", "inputs": [{"name": "x", "from": sources[number]}]}
        for number in range(steps)
    ]
    members = [{"name": f"m{number}", "inline": _member(kind, number)} for number in range(min(steps, MEMBERS))]
    return {
        "apiVersion": "podium.dev/v1alpha1",
        "kind": "InferencePipeline",
        "metadata": {"name": name},
        "spec": {
            "models": members,
            "steps": listed,
            "outputs": [{"name": "x", "from": sources[-1]}],
            "sharedMemory": {"arenaBytes": ARENA_BYTES},
        },
    }
