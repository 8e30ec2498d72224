"""Workers that share GPUs by parts: where each goes, and what its process sees. No GPU is needed to see that."""

import asyncio
import json
import os

import pytest
from tests.runtime.worker.models import GroupMaker, column

from podium.errors import WorkerLoadError
from podium.ipc.tensor import Tensor
from podium.serving.workers.gpu_shares import GpuShares
from podium.serving.workers.pod import PodResources
from podium.worker.devices import VISIBLE, see_only
from podium_crds.assignment import EngineKind
from podium_crds.reasons import Reason

pytestmark = pytest.mark.asyncio(loop_scope="module")

TELLS = """
    import json, os
    import numpy as np

    class Model:
        def load(self, ctx):
            seen = [os.environ.get("CUDA_VISIBLE_DEVICES"), ctx.device, ctx.gpu_fraction, os.getpid()]
            self.told = np.frombuffer(json.dumps(seen).encode(), np.uint8)

        def infer(self, inputs):
            return {"y": self.told[None].repeat(len(inputs["x"]), axis=0)}
"""


@pytest.fixture
def two_gpus(pod: PodResources, monkeypatch: pytest.MonkeyPatch) -> PodResources:
    """The pod as with two device nodes."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(pod, "devices", ("cuda:0", "cuda:1"))
    monkeypatch.setattr(pod, "gpu_shares", GpuShares(pod.devices))
    return pod


async def seen_by(groups: GroupMaker, **fields: object) -> list[list[object]]:
    """What each instance of a group says of its surroundings."""
    group = await groups.start(TELLS, **fields)
    deadline = asyncio.get_running_loop().time() + 20
    inputs = {"x": Tensor.from_array(column(1))}
    answers = await group.infer_on_each(inputs, request_id="test", deadline=deadline)
    found = []
    for answer in answers:
        assert not isinstance(answer, BaseException), answer
        found.append(json.loads(bytes(answer["y"].data)))
        answer["y"].release()
    return found


async def test_each_instance_sees_its_own_gpu_alone(groups: GroupMaker, two_gpus: PodResources) -> None:
    told = await seen_by(groups, instances=2, gpu_fraction=0.6, gpu_places=(1, 0))
    assert [each[:3] for each in told] == [["1", "cuda:0", 0.6], ["0", "cuda:0", 0.6]]
    assert len({each[3] for each in told} | {os.getpid()}) == 3
    (beside,) = await seen_by(groups, gpu_fraction=0.4, gpu_places=(1,))
    assert beside[:3] == ["1", "cuda:0", 0.4]


async def test_without_parts_instances_take_the_gpus_in_turn_and_see_one_each(
    groups: GroupMaker, two_gpus: PodResources
) -> None:
    told = await seen_by(groups, instances=2)
    assert sorted(str(each[0]) for each in told) == ["0", "1"]
    assert {(each[1], each[2]) for each in told} == {("cuda:0", None)}


async def test_where_the_planned_gpu_is_held_another_is_taken(groups: GroupMaker, two_gpus: PodResources) -> None:
    """As when the workers of the revision before are still there."""
    await seen_by(groups, gpu_fraction=0.7, gpu_places=(0,))
    (told,) = await seen_by(groups, gpu_fraction=0.5, gpu_places=(0,))
    assert told[0] == "1"


async def test_what_fits_nowhere_is_not_loaded_and_says_who_holds_what(
    groups: GroupMaker, two_gpus: PodResources
) -> None:
    await seen_by(groups, instances=2, gpu_fraction=0.6, gpu_places=(0, 1))
    held = r"no GPU of this pod has 0.5 left .*0.6 of cuda:0, .*0.6 of cuda:1"
    with pytest.raises(WorkerLoadError, match=held) as caught:
        await groups.start(TELLS, instances=2, gpu_fraction=0.5, gpu_places=(0, 1))
    assert caught.value.reason is Reason.INSUFFICIENT_GPU


async def test_a_part_is_free_again_when_its_worker_has_ended(groups: GroupMaker, two_gpus: PodResources) -> None:
    for _ in range(3):
        told = await seen_by(groups, instances=2, gpu_fraction=0.5, gpu_places=(0, 0))
        assert [each[0] for each in told] == ["0", "0"]
        await groups.stop()
    with pytest.raises(WorkerLoadError):  # the second of two fails, and the first gives back what it had taken
        await groups.start(TELLS, instances=3, gpu_fraction=0.9, gpu_places=(0, 1))
    (told,) = await seen_by(groups, gpu_fraction=1.0, gpu_places=(0,))
    assert told[0] == "0"


async def test_on_a_machine_without_a_gpu_a_part_is_of_nothing(groups: GroupMaker, pod: PodResources) -> None:
    assert pod.devices == (), "this test is for machines without one"
    (told,) = await seen_by(groups, gpu_fraction=0.5, gpu_places=(0,))
    assert told[1:3] == ["cpu", None]


@pytest.mark.parametrize(
    ("device", "given", "named", "seen"),
    [
        ("cuda:1", None, "cuda:0", "1"),
        ("cuda:1", "4,7", "cuda:0", "7"),
        ("cuda:0", "GPU-8932f937,MIG-2", "cuda:0", "GPU-8932f937"),
        ("cpu", "4,7", "cpu", "4,7"),
        ("cpu", None, "cpu", None),
    ],
)
async def test_a_process_sees_one_of_those_that_it_was_given(
    device: str, given: str | None, named: str, seen: str | None
) -> None:
    environ = {VISIBLE: given} if given is not None else {}
    assert see_only(device, EngineKind.TORCH, environ) == named
    assert environ.get(VISIBLE) == seen


async def test_an_engine_of_several_gpus_sees_them_all() -> None:
    environ = {VISIBLE: "0,1"}
    assert see_only("cuda:0", EngineKind.VLLM, environ) == "cuda:0"
    assert environ == {VISIBLE: "0,1"}
