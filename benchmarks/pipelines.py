"""P5 in part: three steps in one pod against the same three over HTTP between three servers; and growth with the steps.

One client, one request at a time, Open Inference Protocol in binary on both sides, answers compared byte for byte. Over
HTTP the client calls one server after the other, as an orchestrator would. The physical limit is the two copies of the
body through the sockets, which both sides pay once at least: it is the row with one step.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median

import httpx
import numpy as np

from benchmarks.result import Bar, Effort, Result
from benchmarks.served import served

SIZES = {"1 KB": 1 << 10, "1 MB": 1 << 20, "10 MB": 10 << 20}
STEPS = (1, 3, 4, 16)
HOPS = 3
TRIPS_PER_SECOND = {"1 KB": 60, "1 MB": 15, "10 MB": 3}
"""Of one row and round, so that a round takes about the seconds asked for."""
CODE = "class Model:\n    def infer(self, inputs):\n        return {'x': inputs['x']}\n"
TENSOR = [{"name": "x", "dtype": "FP32", "shape": [-1, -1]}]
MODEL = {
    "source": {"uri": "configmap://code"},
    "engine": "Python",
    "python": {"entrypoint": "model:Model"},
    "inputs": TENSOR,
    "outputs": TENSOR,
}
ARENA_BYTES = 256 << 20
LENGTH = "inference-header-content-length"


def run(effort: Effort) -> Result:
    """Milliseconds, median of rounds, for each size and way."""
    found: dict[tuple[str, str], list[float]] = {}
    with _servers() as ways, httpx.Client(timeout=60.0) as client:
        for _ in range(effort.rounds):
            for size, nbytes in SIZES.items():
                trips = max(3, round(effort.seconds * TRIPS_PER_SECOND[size] / len(ways)))
                for way, urls in ways.items():
                    found.setdefault((size, way), []).append(_median_ms(client, urls, nbytes, trips))
    middle = {key: median(values) for key, values in found.items()}
    rows = tuple({"size": size, "way": way, "p50_ms": round(value, 3)} for (size, way), value in middle.items())
    return Result("pipelines", rows, _bars(middle))


def _bars(middle: Mapping[tuple[str, str], float]) -> tuple[Bar, ...]:
    def hop(size: str) -> float:
        return (middle[size, "4 steps"] - middle[size, "1 steps"]) / 3

    def share(size: str) -> float:
        return middle[size, "3 steps"] / middle[size, "http"]

    per_step = (middle["1 KB", "16 steps"] - middle["1 KB", "1 steps"]) / 15
    return (
        Bar("P5-hop", "a hop of 10 MB passed through, against one of 1 KB", hop("10 MB") / hop("1 KB"), 2.0),
        Bar("P5-1MB", "end to end at 1 MB, against HTTP hops", share("1 MB"), 1 / 5),
        Bar("P5-10MB", "end to end at 10 MB, against HTTP hops", share("10 MB"), 1 / 10),
        Bar("P5-growth", "a step of 16, against a step of 4, at 1 KB", per_step / hop("1 KB"), 1.2),
    )


@contextmanager
def _servers() -> Iterator[Mapping[str, list[str]]]:
    """Way → the addresses that are asked, one after the other."""
    code = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"model.py": CODE}}
    pipelines = [_pipeline(steps) for steps in STEPS]
    hop = {"apiVersion": "podium.dev/v1alpha1", "kind": "InferenceModel", "metadata": {"name": "hop"}}
    spec = {**MODEL, "sharedMemory": {"arenaBytes": ARENA_BYTES}}
    with ExitStack() as stack:
        pod = stack.enter_context(served([code, *pipelines]))
        hops = [stack.enter_context(served([code, {**hop, "spec": spec}])) for _ in range(HOPS)]
        ways = {f"{steps} steps": [f"{pod.url}/v2/models/chain-{steps}/infer"] for steps in STEPS}
        yield {**ways, "http": [f"{each.url}/v2/models/hop/infer" for each in hops]}


def _pipeline(steps: int) -> Mapping[str, object]:
    sources = ["request.x", *(f"s{number}.x" for number in range(steps))]
    listed = [
        {"name": f"s{number}", "model": "pass", "inputs": [{"name": "x", "from": sources[number]}]}
        for number in range(steps)
    ]
    return {
        "apiVersion": "podium.dev/v1alpha1",
        "kind": "InferencePipeline",
        "metadata": {"name": f"chain-{steps}"},
        "spec": {
            "models": [{"name": "pass", "inline": MODEL}],
            "steps": listed,
            "outputs": [{"name": "x", "from": sources[-1]}],
            "sharedMemory": {"arenaBytes": ARENA_BYTES},
        },
    }


def _median_ms(client: httpx.Client, urls: list[str], nbytes: int, trips: int) -> float:
    sent = np.random.default_rng(nbytes).random((1, nbytes // 4), np.float32).tobytes()
    times = []
    for _ in range(trips + 1):
        started, body = time.perf_counter(), sent
        for url in urls:
            body = _asked(client, url, body)
        times.append((time.perf_counter() - started) * 1e3)
        assert body == sent, "another answer than expected"
    return median(times[1:])


def _asked(client: httpx.Client, url: str, x: bytes) -> bytes:
    parameters = {"binary_data_size": len(x)}
    entry = {"name": "x", "datatype": "FP32", "shape": [1, len(x) // 4], "parameters": parameters}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    answer = client.post(url, content=head + x, headers={LENGTH: str(len(head))})
    answer.raise_for_status()
    return answer.content[int(answer.headers[LENGTH]) :]
