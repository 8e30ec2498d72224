"""Large raw tensors over gRPC: every byte right, and each copied once on its way in and once on its way out."""

from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families
from tests.runtime.grpc_oip.test_grpc import an_input
from tests.runtime.serving.processes import Server, served, until
from tritonclient.utils import InferenceServerException

MIB = 1 << 20
YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    class Flip:
        def infer(self, inputs):
            return {"y": inputs["x"][:, ::-1]}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: flip}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Flip"}
  inputs: [{name: x, dtype: UINT8, shape: [-1, -1]}]
  outputs: [{name: "y", dtype: UINT8, shape: [-1, -1]}]
  batching: {maxBatchSize: 1}
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: twice}
spec:
  models:
    - {name: flip, modelRef: {name: flip}}
  steps:
    - {name: one, model: flip, inputs: [{name: x, from: request.x}]}
    - {name: two, model: flip, inputs: [{name: x, from: request.x}]}
  outputs: [{name: a, from: one.y}, {name: b, from: two.y}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("copies")
    with served(folder, YAML, "--grpc-port", "0", arena_mib=64, PODIUM_MAX_BODY_BYTES=str(48 * MIB)) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as made:
        yield made


def series(server: Server, family: str, label: str, model: str | None) -> dict[str, float]:
    """The values of a family for one model (None: of no model), summed by one label."""
    found: dict[str, float] = {}
    for each in text_string_to_metric_families(httpx.get(server.url + "/metrics").text):
        for sample in each.samples:
            if sample.name == family and sample.labels.get("model") == model:
                key = sample.labels[label]
                found[key] = found.get(key, 0) + sample.value
    return found


def counted(server: Server, model: str) -> dict[str, float]:
    copied = series(server, "podium_tensor_copied_bytes_total", "step", model)
    return copied | series(server, "podium_tensor_body_bytes_total", "direction", model)


def spent(server: Server, model: str, before: dict[str, float]) -> dict[str, float]:
    return {key: value - before[key] for key, value in counted(server, model).items()}


def random_bytes(*shape: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(shape[-1]).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("nbytes", [1, 16 << 10, (16 << 10) + 1, MIB + 1, 20 * MIB])
def test_every_byte_comes_back(client: triton.InferenceServerClient, nbytes: int) -> None:
    x = random_bytes(1, nbytes)
    answer = client.infer("flip", [an_input("x", x, "UINT8")]).as_numpy("y")
    np.testing.assert_array_equal(answer, x[:, ::-1])


def test_a_tensor_is_copied_into_its_batch_and_out_of_its_slot_and_nowhere_else(
    server: Server, client: triton.InferenceServerClient
) -> None:
    before = counted(server, "flip")
    client.infer("flip", [an_input("x", random_bytes(1, MIB), "UINT8")])
    expected = {"http_in": 0, "gather": MIB, "store": MIB, "http_out": MIB, "in": MIB, "out": MIB}
    assert spent(server, "flip", before) == expected


def test_steps_that_read_the_same_tensor_share_one_copy(server: Server, client: triton.InferenceServerClient) -> None:
    before = counted(server, "twice")
    x = random_bytes(1, MIB)
    answer = client.infer("twice", [an_input("x", x, "UINT8")])
    np.testing.assert_array_equal(answer.as_numpy("a"), x[:, ::-1])
    np.testing.assert_array_equal(answer.as_numpy("b"), x[:, ::-1])
    copies = spent(server, "twice", before)
    assert {step: copies[step] for step in ("http_in", "gather", "in")} == {"http_in": MIB, "gather": 0, "in": MIB}


def test_what_the_arena_cannot_take_is_refused_and_leaves_nothing_behind(
    server: Server, client: triton.InferenceServerClient
) -> None:
    x = random_bytes(1, 40 * MIB)
    for name in ("flip", "twice"):
        with pytest.raises(InferenceServerException) as refused:
            client.infer(name, [an_input("x", x, "UINT8")])
        assert refused.value.status() == f"{grpc.StatusCode.RESOURCE_EXHAUSTED}"
    until(lambda: series(server, "podium_arena_bytes", "state", None)["used"] == 0, "nothing is held")
