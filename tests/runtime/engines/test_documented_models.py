"""The models of docs/models.md load and answer as the page says."""

import asyncio
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.runtime.serving.processes import served
from tests.runtime.worker.models import GroupMaker, ask

from podium.errors import InvalidInput
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium.telemetry.counting import StreamCounts
from podium_crds.assignment import EngineKind
from podium_crds.tensors import DType, TensorSpec

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
PYTHON, STREAMING, TORCH, HANDLER, CODECS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


async def test_the_python_model_scales(groups: GroupMaker) -> None:
    group = await groups.start(PYTHON, engine={"entrypoint": "model:Scale", "parameters": {"factor": 3}})
    answers = await asyncio.gather(*(ask(group, np.full((rows, 2), 2, np.float32)) for rows in (1, 2)))
    for rows, answer in zip((1, 2), answers, strict=True):
        np.testing.assert_array_equal(answer, np.full((rows, 2), 6))


async def test_the_streaming_model_counts(groups: GroupMaker) -> None:
    imports = "import numpy as np\nfrom podium import Model\n"
    group = await groups.start(imports + STREAMING, engine={"entrypoint": "model:Count"})
    deadline = asyncio.get_running_loop().time() + 20
    inputs = {"n": Tensor.from_array(np.array([[3]]))}
    async with group.stream(inputs, request_id="r", deadline=deadline, counts=StreamCounts()) as answer:
        assert [int(chunk["n"].array()[0]) async for chunk in answer] == [0, 1, 2]


async def test_the_torch_model_takes_the_weights_of_the_artifact(groups: GroupMaker) -> None:
    artifact = groups.artifact(TORCH)
    weights = {"layer.weight": torch.eye(3) * 2, "layer.bias": torch.zeros(3)}
    save_file(weights, artifact / "model.safetensors")
    engine = {"kind": EngineKind.TORCH, "entrypoint": "model:build", "parameters": {"width": 3}}
    group = await WorkerGroup.start(groups.member(engine=engine), artifact, pod=groups.pod)
    groups.groups.append(group)
    array = np.array([[1, 2, 3]], np.float32)
    np.testing.assert_allclose(await ask(group, array), torch.softmax(torch.tensor(array) * 2, -1), rtol=1e-6)


async def test_the_handler_refuses_an_item_and_answers_the_others(groups: GroupMaker) -> None:
    engine = {"kind": EngineKind.HANDLER, "entrypoint": "model:Threshold"}
    outputs = (TensorSpec(name="y", dtype=DType.BYTES, shape=(-1,)),)
    group = await groups.start(HANDLER, engine=engine, outputs=outputs)
    values = (0.1, float("nan"), 0.9)
    low, refused, high = await asyncio.gather(
        *(ask(group, np.array([value])) for value in values), return_exceptions=True
    )
    assert isinstance(low, np.ndarray)
    assert isinstance(high, np.ndarray)
    assert (low.tolist(), high.tolist()) == ([b"low"], [b"high"])
    assert isinstance(refused, InvalidInput)


SUMS = """
from podium import Model

class Sums(Model):
    def infer(self, inputs):
        return {"sum": inputs["numbers"].sum(axis=1)}
"""
SUMS_YAML = """
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: sums}
spec:
  source: {uri: "file:./sums"}
  engine: Python
  python: {entrypoint: "model:Sums"}
  inputs: [{name: numbers, dtype: FP64, shape: [-1, -1]}]
  outputs: [{name: sum, dtype: FP64, shape: [-1]}]
"""


async def test_the_content_type_of_its_own_is_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "model.py").write_text(CODECS + SUMS)
    with served(tmp_path, SUMS_YAML) as server:
        headers = {"content-type": "text/csv", "accept": "text/csv"}
        url = f"{server.url}/v1/models/sums:predict"
        response = await asyncio.to_thread(httpx.post, url, content="1,2\n3,4.5\n", headers=headers, timeout=30)
    assert (response.text, response.headers["content-type"]) == ("3\n7.5\n", "text/csv")
