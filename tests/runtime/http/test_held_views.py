"""A model that keeps its inputs is seen in the metrics, until it lets go or its process ends."""

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.runtime.serving.processes import Server, served, until

MIB = 1 << 20
YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    import os
    import numpy as np

    class Hoarder:
        def __init__(self):
            self.kept = []

        def infer(self, inputs):
            if inputs["x"][0, 0] == 0:
                self.kept.clear()
            elif inputs["x"][0, 0] == 2:
                self.kept.append(inputs["x"].copy())
            else:
                self.kept.append(inputs["x"])
            return {"pid": np.array([[os.getpid()]], np.int64)}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: hoarder}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Hoarder"}
  batching: {maxBatchSize: 1}
"""
LETS_GO, KEEPS, COPIES = 0, 1, 2


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("held"), YAML, arena_mib=16) as made:
        yield made


def ask(server: Server, what: int, nbytes: int) -> int:
    """Sends a tensor that begins with what to do; returns the worker's process."""
    x = np.full((1, nbytes), what, np.uint8)
    entry = {"name": "x", "datatype": "UINT8", "shape": [1, nbytes], "parameters": {"binary_data_size": nbytes}}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    url = f"{server.url}/v2/models/hoarder/infer"
    answer = httpx.post(url, content=head + x.tobytes(), headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["outputs"][0]["data"][0])


def held_bytes(server: Server) -> float:
    page = httpx.get(server.url + "/metrics").text
    samples = [
        sample
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "podium_arena_held_bytes"
    ]
    assert [sample.labels["model"] for sample in samples] == ["hoarder"]
    assert {"revision", "member"} < samples[0].labels.keys()
    return samples[0].value


def test_what_a_model_keeps_is_shown_until_it_lets_go(server: Server) -> None:
    ask(server, COPIES, MIB)
    assert held_bytes(server) == 0
    ask(server, KEEPS, MIB)
    assert MIB <= held_bytes(server) <= 2 * MIB
    kept = held_bytes(server)
    for _ in range(3):  # from now on the model gets copies, and holds nothing more
        ask(server, KEEPS, MIB)
    assert held_bytes(server) == kept
    ask(server, LETS_GO, MIB)
    assert held_bytes(server) == 0


def test_what_it_keeps_ends_with_its_process(server: Server) -> None:
    first = ask(server, KEEPS, 5 * MIB)  # more than a quarter of the arena
    until(lambda: held_bytes(server) == 0, "nothing is held")
    assert ask(server, COPIES, MIB) != first
