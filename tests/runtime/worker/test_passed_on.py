"""What a model returns as it got it, whole or in part, is handed on where it lies: not stored again, safe to read."""

import asyncio
import os
import signal

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.worker.models import GroupMaker, ask
from tests.runtime.worker.stops import STOPS, stop_at, stopped
from tests.support.waiting import eventually

from podium.errors import WorkerDied
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium_crds.assignment import EngineKind
from podium_crds.tensors import DType, TensorSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDTH = 30_000
PASS = """
    class Model:
        def infer(self, inputs):
            return {"y": inputs["x"]}
"""


def wide(value: float, rows: int = 1) -> NDArray[np.float32]:
    return np.full((rows, WIDTH), value, np.float32)


def in_slot(groups: GroupMaker, array: NDArray[np.float32]) -> Tensor:
    """As a body of a request, or an output of the step before."""
    arena = groups.pod.arena
    tensor = arena.tensor(DType.FP32, array.shape)
    tensor.data[:] = Tensor.from_array(array).data
    return arena.seal(tensor)


async def outputs_of(group: WorkerGroup, **inputs: Tensor) -> dict[str, Tensor]:
    """Leased to the caller."""
    return await group.infer(inputs, request_id="r", deadline=asyncio.get_running_loop().time() + 20)


async def test_a_tensor_that_is_passed_on_stays_where_it_is(groups: GroupMaker) -> None:
    group = await groups.start(PASS)
    x = in_slot(groups, wide(3))
    answer = (await outputs_of(group, x=x))["y"]
    assert answer.lease is not None
    assert x.lease is not None
    assert answer.lease.slot is x.lease.slot
    x.release()
    np.testing.assert_array_equal(answer.array(), wide(3))
    assert groups.pod.arena.stats().slots == 1, "the input's slot alone, until its last reader has ended"
    answer.release()
    assert groups.pod.arena.stats().slots == 0
    copies = group.stats().copies
    assert (copies.gathers, copies.stores) == (0, 0)


async def test_through_a_chain_of_models_one_slot_is_all_there_is(groups: GroupMaker) -> None:
    chain = [await groups.start(PASS) for _ in range(3)]
    x = in_slot(groups, wide(5))
    tensor = x
    for group in chain:
        answer = (await outputs_of(group, x=tensor))["y"]
        tensor.release()
        tensor = answer
        assert groups.pod.arena.stats().slots == 1
        assert group.stats().copies.stores == 0
    np.testing.assert_array_equal(tensor.array(), wide(5))
    tensor.release()


async def test_bytes_that_came_on_the_heap_are_gathered_once_and_not_stored(groups: GroupMaker) -> None:
    group = await groups.start(PASS)
    np.testing.assert_array_equal(await ask(group, wide(7)), wide(7))
    copies = group.stats().copies
    assert (copies.gathers, copies.stores) == (1, 0)


async def test_requests_of_one_batch_get_their_own_rows_of_what_was_passed_on(groups: GroupMaker) -> None:
    group = await groups.start(PASS, batching={"max_batch_size": 16})
    answers = await asyncio.gather(*(ask(group, wide(value, 1 + value % 3)) for value in range(24)))
    for value, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, wide(value, 1 + value % 3))
    stats = group.stats()
    assert stats.copies.stores == 0
    assert stats.copies.gathers == stats.batches
    assert stats.batches < 24


async def test_contiguous_views_are_passed_on_and_others_are_stored(groups: GroupMaker) -> None:
    source = """
    class Model:
        def infer(self, inputs):
            x = inputs["x"]
            return {
                "rows": x[1:3],
                "reshaped": x.reshape(-1, 10),
                "bits": x.view("int32"),
                "columns": x[:, ::2],
                "turned": x[::-1],
                "sliver": x[0, :100],
            }
    """
    group = await groups.start(source)
    array = np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)
    x, other = in_slot(groups, array), in_slot(groups, wide(0))
    outputs = await outputs_of(group, x=x, other=other)  # without common rows: outputs may have any number
    other.release()
    expected = {
        "rows": array[1:3],
        "reshaped": array.reshape(-1, 10),
        "bits": array.view(np.int32),
        "columns": array[:, ::2],
        "turned": array[::-1],
        "sliver": array[0, :100],
    }
    assert x.lease is not None
    shared = {name for name, tensor in outputs.items() if tensor.lease and tensor.lease.slot is x.lease.slot}
    assert shared == {"rows", "reshaped", "bits"}
    for name, answer in expected.items():
        np.testing.assert_array_equal(outputs[name].array(), answer)
        outputs[name].release()
    x.release()
    assert group.stats().copies.stores == 3


async def test_a_model_that_keeps_what_it_passes_on_changes_nobodys_answer(groups: GroupMaker) -> None:
    source = """
    class Model:
        kept = []
        def infer(self, inputs):
            self.kept.append(inputs["x"])
            return {"y": inputs["x"]}
    """
    keeper, other = await groups.start(source), await groups.start(PASS)
    for value in range(6):
        answers = await asyncio.gather(ask(keeper, wide(value)), *(ask(other, wide(10 + value)) for _ in range(4)))
        np.testing.assert_array_equal(answers[0], wide(value))
        for answer in answers[1:]:
            np.testing.assert_array_equal(answer, wide(10 + value))
    assert groups.pod.arena.stats().slots == 1, "what is kept is nobody else's; later inputs were private copies"
    assert keeper.stats().copies.stores == 5


async def test_an_earlier_input_that_a_model_kept_and_returns_is_stored_as_its_own(groups: GroupMaker) -> None:
    source = """
    class Model:
        first = None
        def infer(self, inputs):
            if self.first is None:
                self.first = inputs["x"]
            return {"y": self.first}
    """
    group = await groups.start(source)
    for value in range(1, 4):
        np.testing.assert_array_equal(await ask(group, wide(value)), wide(1))


async def test_an_answer_outlives_the_worker_that_passed_it_on(groups: GroupMaker) -> None:
    group, other = await groups.start(PASS), await groups.start(PASS)
    x = in_slot(groups, wide(9))
    answer = (await outputs_of(group, x=x))["y"]
    x.release()
    (pid,) = group.stats().pids
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: group.stats().restarts == 1 and pid not in group.stats().pids)
    for value in range(8):
        np.testing.assert_array_equal(await ask(other, wide(value)), wide(value))
    np.testing.assert_array_equal(answer.array(), wide(9))
    answer.release()
    assert groups.pod.arena.stats().slots == 0


@pytest.mark.parametrize("point", ["infer", "before Reply", "after Reply"])
async def test_a_worker_killed_while_it_passes_on_leaves_the_input_to_its_owner(groups: GroupMaker, point: str) -> None:
    source = STOPS.replace('return {"y": y}', 'return {"y": x}')
    assert source != STOPS
    group = await groups.start(source, batching={"max_batch_size": 1})
    x = in_slot(groups, wide(2))
    stop_at(groups.folder, point)
    asked = asyncio.create_task(outputs_of(group, x=x))
    os.kill(await eventually(lambda: stopped(groups.folder)), signal.SIGKILL)
    try:
        answer = (await asked)["y"]
    except WorkerDied:
        assert point != "after Reply"
    else:
        assert point == "after Reply"
        answer.release()
    assert x.lease is not None
    np.testing.assert_array_equal(x.array(), wide(2))
    assert (await outputs_of(group, x=x))["y"].lease is not None
    groups.pod.arena.ledger.drop_holder(x.lease.holder)
    await eventually(lambda: groups.pod.arena.stats().slots == 0, what="no lease is left")


async def test_rows_that_infer_batch_passes_on_are_not_joined_again(groups: GroupMaker) -> None:
    source = """
    import time
    class Model:
        def infer_batch(self, requests):
            time.sleep(0.01)
            return [{"y": request["x"]} for request in requests]
    """
    group = await groups.start(source)
    answers = await asyncio.gather(*(ask(group, wide(value, 1 + value % 2)) for value in range(8)))
    for value, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, wide(value, 1 + value % 2))
    stats = group.stats()
    assert max(stats.batch_sizes) > 2
    assert stats.copies.stores == 0


async def test_rows_that_infer_batch_returns_in_another_order_or_mixed_are_right(groups: GroupMaker) -> None:
    source = """
    import time
    class Model:
        def infer_batch(self, requests):
            time.sleep(0.01)
            parts = [request["x"] for request in requests]
            return [{"y": other, "z": part if i else part + 0} for i, (other, part) in
                    enumerate(zip(parts[::-1], parts))]
    """
    group = await groups.start(source)
    inputs = [in_slot(groups, wide(value)) for value in range(8)]
    answers = await asyncio.gather(*(outputs_of(group, x=x) for x in inputs))
    for value, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["z"].array(), wide(value))
    values = sorted(float(answer["y"].array()[0, 0]) for answer in answers)
    assert values == list(range(8))
    assert inputs[0].lease is not None
    groups.pod.arena.ledger.drop_holder(inputs[0].lease.holder)


async def test_a_torch_module_passes_its_input_on(groups: GroupMaker) -> None:
    source = """
    import torch
    class Pass(torch.nn.Module):
        def forward(self, x):
            return {"y": x.reshape(-1, 10).view(len(x), -1), "z": x * 2}
    def build(ctx):
        return Pass()
    """
    specs = tuple(TensorSpec(name=name, dtype=DType.FP32, shape=(-1, -1)) for name in "xyz")
    engine = {"kind": EngineKind.TORCH, "entrypoint": "model:build"}
    group = await groups.start(source, engine=engine, inputs=specs[:1], outputs=specs[1:])
    x = in_slot(groups, wide(1))
    outputs = await outputs_of(group, x=x)
    assert outputs["y"].lease is not None
    assert x.lease is not None
    assert outputs["y"].lease.slot is x.lease.slot
    np.testing.assert_array_equal(outputs["z"].array(), wide(2))
    assert group.stats().copies.stores == 1
    groups.pod.arena.ledger.drop_holder(x.lease.holder)
