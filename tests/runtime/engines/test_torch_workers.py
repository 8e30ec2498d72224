"""Torch models in real workers: pages shared, bad rows found, a write to an input ends the worker and no data."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tests.runtime.worker.models import GroupMaker, ask
from tests.support.waiting import eventually

from podium.errors import ModelError, WorkerDied
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium_crds.assignment import EngineKind
from podium_crds.tensors import DType

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

SIDE = 3000
WEIGHT_BYTES = SIDE * SIDE * 4
EMPTY_NET = f"""
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty({SIDE}, {SIDE}))
        def forward(self, x):
            return {{"y": x @ self.weight}}
    def build(ctx):
        with torch.device("meta"):
            return Net()
"""
RAISES_ON_NEGATIVE = """
    import time
    def build(ctx):
        def forward(x):
            time.sleep(0.05)
            if (x < 0).any():
                raise ValueError("negative")
            return {"y": x + 1}
        return forward
"""


def private_dirty_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_Dirty"))


async def start(
    groups: GroupMaker, source: str, weights: dict[str, torch.Tensor] | None = None, **changes: Any
) -> WorkerGroup:
    artifact = groups.artifact(source)
    if weights:
        save_file(weights, Path(artifact) / "model.safetensors")
    engine = {"kind": EngineKind.TORCH, "entrypoint": "model:build", **changes.pop("engine", {})}
    member = groups.member(engine=engine, **changes)
    group = await WorkerGroup.start(member, artifact, pod=groups.pod)
    groups.groups.append(group)
    return group


async def test_instances_share_the_pages_of_mapped_weights(groups: GroupMaker) -> None:
    group = await start(groups, EMPTY_NET, {"weight": torch.eye(SIDE)}, instances=2)
    array = np.arange(SIDE, dtype=np.float32).reshape(1, SIDE)
    answers = await asyncio.gather(*(ask(group, array) for _ in range(8)))
    for answer in answers:
        np.testing.assert_array_equal(answer, array)
    for pid in group.stats().pids:
        assert private_dirty_bytes(pid) < WEIGHT_BYTES, "weights are no private copy"


async def test_a_bad_row_fails_alone_without_being_asked_for(groups: GroupMaker) -> None:
    group = await start(groups, RAISES_ON_NEGATIVE)
    values = [1, 2, 3, -4, 5, 6, 7, 8]
    tasks = [asyncio.create_task(ask(group, np.array([[value]], np.float32))) for value in values]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for value, result in zip(values, results, strict=True):
        if value < 0:
            assert isinstance(result, ModelError)
            assert "negative" in str(result)
        else:
            assert result == value + 1
    assert max(group.stats().batch_sizes) > 1


async def test_writing_to_an_input_in_the_arena_ends_the_worker_alone(groups: GroupMaker) -> None:
    group = await start(groups, "def build(ctx):\n    return lambda x: {'y': x.mul_(2)}\n")
    with pytest.raises(WorkerDied, match=r"SIGSEGV.*inputs are mapped read-only"):
        await ask(group, np.ones((1, 50_000), np.float32))
    await eventually(lambda: group.stats().restarts == 1)


WRITES = """
import torch

def build(ctx):
    def forward(x, mean):
        y = x + 1
        y.mul_(2)
        if mean[0, 0] == 1:
            x[:, 10:20].view(-1, 10).mul_(2)
        if mean[0, 0] == 2:
            torch.add(x, 1, out=mean)
        return {"y": y}
    return forward
"""


async def ask_both(group: WorkerGroup, value: float) -> NDArray[np.float32]:
    array = np.full((1, 50_000), value, np.float32)
    inputs = {"x": Tensor.from_array(np.ones_like(array)), "mean": Tensor.from_array(array)}
    outputs = await group.infer(inputs, request_id="test", deadline=asyncio.get_running_loop().time() + 20)
    answer: NDArray[np.float32] = outputs["y"].array().copy()
    for tensor in outputs.values():
        tensor.release()
    return answer


async def test_after_a_fault_the_input_that_is_written_to_is_named_and_the_worker_stays(groups: GroupMaker) -> None:
    group = await start(groups, WRITES)
    np.testing.assert_array_equal(await ask_both(group, 0), np.full((1, 50_000), 4, np.float32))
    with pytest.raises(WorkerDied):
        await ask_both(group, 1)
    for value, name, operation in ((1, "x", "mul_"), (2, "mean", "add"), (1, "x", "mul_")):
        with pytest.raises(ModelError, match=rf"aten\.{operation}.* writes to input '{name}'") as told:
            await ask_both(group, value)
        assert "inputs are read-only" in str(told.value)
    np.testing.assert_array_equal(await ask_both(group, 0), np.full((1, 50_000), 4, np.float32))
    assert group.stats().restarts == 1


async def test_a_tensor_that_the_model_keeps_holds_its_memory_until_the_last_view_dies(groups: GroupMaker) -> None:
    source = """
    import torch
    kept = []
    def forward(x):
        assert all(bool((view == 3).all()) for view in kept), "a kept input has changed"
        if x[0, 0] == 3 and not kept:
            kept.append(x.reshape(-1, 10).T[2:5, ::7])
        elif x[0, 0] < 0:
            kept.clear()
        return {"y": x[:, :1] + 0}
    def build(ctx):
        return forward
    """
    group = await start(groups, source)
    for value in (3, 4, 5, 6):
        await ask(group, np.full((1, 50_000), value, np.float32))
        assert groups.pod.arena.stats().slots == 1
    await ask(group, np.full((1, 50_000), -1, np.float32))
    assert groups.pod.arena.stats().slots == 0


async def test_a_torch_model_writes_its_output_in_place(groups: GroupMaker) -> None:
    source = """
    import torch
    def build(ctx):
        def forward(x):
            y = torch.from_numpy(ctx.output("y", x.shape, "float32"))
            return {"y": torch.add(x, 1, out=y)}
        return forward
    """
    group = await start(groups, source)
    for value in (3, 4):
        answer = await ask(group, np.full((1, 50_000), value, np.float32))
        np.testing.assert_array_equal(answer, np.full((1, 50_000), value + 1, np.float32))
    assert group.stats().copies.stores == 0


async def test_a_forked_worker_computes_with_the_threads_it_was_given(groups: GroupMaker) -> None:
    source = "import torch\ndef build(ctx):\n    return lambda x: {'y': x * 0 + torch.get_num_threads()}\n"
    group = await start(groups, source, engine={"threads": 2})
    assert (await ask(group, np.zeros((1, 1), np.float32))).tolist() == [[2]]


async def test_a_branch_that_writes_to_its_input_harms_neither_the_sibling_nor_the_slot(groups: GroupMaker) -> None:
    writer = await start(groups, "def build(ctx):\n    return lambda x: {'y': x.mul_(2)}\n")
    reader = await start(groups, "def build(ctx):\n    return lambda x: {'y': x + 1}\n")
    tensor = groups.pod.arena.tensor(DType.FP32, (1, 50_000))
    tensor.array()[:] = 3
    until = asyncio.get_running_loop().time() + 20
    siblings = [writer, reader, reader, writer, reader]
    answers = await asyncio.gather(
        *(group.infer({"x": tensor}, request_id="r", deadline=until) for group in siblings), return_exceptions=True
    )
    for group, answer in zip(siblings, answers, strict=True):
        if group is writer:
            assert isinstance(answer, WorkerDied | ModelError), "ended once, then told which input it is"
        else:
            assert not isinstance(answer, BaseException)
            assert (answer["y"].array() == 4).all()
            answer["y"].release()
    assert (tensor.array() == 3).all()
    tensor.release()
    await eventually(lambda: writer.stats().restarts >= 1)
