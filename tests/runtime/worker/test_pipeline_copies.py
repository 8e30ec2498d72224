"""What a pipeline copies of large tensors: at most one gather for a batch and one store for an output, else nothing."""

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.worker.models import GroupMaker

from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.revisions.live import LiveRevision
from podium_crds.assignment import Graph, ResourceKind, ResourceRef, Revision
from podium_crds.tensors import DType, TensorSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDTH = 6_000
Y = (TensorSpec(name="y", dtype=DType.FP32, shape=(-1, -1)),)
MEMBERS = {
    "passed": "return {'y': inputs['x']}",
    "sliced": "return {'y': inputs['x'][:, :].reshape(inputs['x'].shape)}",
    "placed": "y = self.ctx.output('y', inputs['x'].shape); y[:] = inputs['x'] + 1; return {'y': y}",
    "fresh": "return {'y': inputs['x'] + 1}",
    "again": "return {'y': inputs['x']}",
}
ADDED = 2


async def a_chain(groups: GroupMaker) -> tuple[LiveRevision, Mapping[str, WorkerGroup]]:
    """The members one after the other, each in a worker of its own."""
    made: dict[str, WorkerGroup] = {}
    steps, source = [], "request.x"
    for name, body in MEMBERS.items():
        source_code = f"""
            class Model:
                def load(self, ctx):
                    self.ctx = ctx
                def infer(self, inputs):
                    {body}
        """
        made[name] = await groups.start(source_code, outputs=Y, name=name)
        steps.append({"name": name, "model": name, "inputs": [{"name": "x", "from": source}]})
        source = f"{name}.y"
    graph = Graph.model_validate({"steps": steps, "outputs": [{"name": "y", "from": source}]})
    members = tuple(group.member for group in made.values())
    spec = Revision(name="r", version="1", members=members, graph=graph, timeout_seconds=60)
    return LiveRevision(ResourceRef(kind=ResourceKind.PIPELINE, name="chain"), spec, made), made


async def ask(live: LiveRevision, groups: GroupMaker, value: float) -> NDArray[np.float32]:
    """The answer for a tensor that came into a slot, as the body of a request does."""
    arena = groups.pod.arena
    x = arena.tensor(DType.FP32, (1, WIDTH))
    x.data[:] = Tensor.from_array(np.full((1, WIDTH), value, np.float32)).data
    x = arena.seal(x)
    try:
        outputs = await live.infer({"x": x}, "r", asyncio.get_running_loop().time() + 60)
    finally:
        x.release()
    answer: NDArray[np.float32] = outputs["y"].array().copy()
    outputs["y"].release()
    return answer


async def test_a_lone_request_is_stored_where_a_step_made_something_new_and_nowhere_else(groups: GroupMaker) -> None:
    live, members = await a_chain(groups)
    for value in range(5):
        np.testing.assert_array_equal(
            await ask(live, groups, value), np.full((1, WIDTH), value + ADDED, dtype=np.float32)
        )
        assert groups.pod.arena.stats().slots == 0
    copies = {name: group.stats().copies for name, group in members.items()}
    assert {name: each.gathers for name, each in copies.items()} == dict.fromkeys(members, 0)
    assert {name: each.stores for name, each in copies.items()} == {**dict.fromkeys(members, 0), "fresh": 5}


async def test_forty_at_once_cost_at_most_one_gather_a_batch_and_one_store_an_output(groups: GroupMaker) -> None:
    live, members = await a_chain(groups)
    answers = await asyncio.gather(*(ask(live, groups, value) for value in range(40)))
    for value, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, np.full((1, WIDTH), value + ADDED, dtype=np.float32))
    for name, group in members.items():
        stats = group.stats()
        assert stats.batches < 40
        assert stats.copies.gathers <= stats.batches - stats.batch_sizes.get(1, 0)
        assert stats.copies.stores == (stats.batches if name == "fresh" else 0)
    assert groups.pod.arena.stats().slots == 0


async def test_a_batch_that_stays_together_is_gathered_once_for_all_steps(groups: GroupMaker) -> None:
    live, members = await a_chain(groups)
    await ask(live, groups, 0)
    busy = asyncio.create_task(ask(live, groups, 0))
    await asyncio.sleep(0)
    rest = [asyncio.create_task(ask(live, groups, value)) for value in range(8)]
    await asyncio.gather(busy, *rest)
    gathered = {name: group.stats().copies.gathered_bytes for name, group in members.items()}
    requests = {name: group.stats().requests for name, group in members.items()}
    assert requests == dict.fromkeys(members, 10)
    assert sum(gathered.values()) < 3 * 8 * WIDTH * 4, "about once for the eight, though they go through five steps"
