"""Padding, ragged batches, errors of single items, memory, priorities and device credits on real processes."""

import asyncio

import numpy as np
import pytest
from tests.runtime.worker.models import BLOCK, CONTROLLED, WORK, GroupMaker, ask, column
from tests.support.waiting import eventually

from podium.errors import ModelError
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.tally import Closed
from podium_crds.batching import CroppedOutput, PaddingSpec, RaggedSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

GATED = """
    import time
    from pathlib import Path

    class Model:
        def load(self, ctx):
            self.here = Path(ctx.parameters["folder"])

        def infer(self, inputs):
            x = inputs["x"]
            (self.here / "begun").touch()
            while not (self.here / "go").exists():
                time.sleep(0.002)
            with (self.here / "shapes").open("a") as log:
                log.write(f"{list(x.shape)}\\n")
            ANSWER
"""


async def together(groups: GroupMaker, answer: str, arrays: list[np.ndarray], **changes: object) -> list[object]:
    """What a model gives for requests that waited for it together."""
    group = await groups.start(GATED.replace("ANSWER", answer), **changes)
    blocked = asyncio.create_task(ask(group, arrays[0]))
    await eventually((groups.folder / "begun").exists)
    tasks = [asyncio.create_task(ask(group, array)) for array in arrays]
    await eventually(lambda: group.stats().requests == 1 + len(arrays))
    groups.go()
    await blocked
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_requests_of_similar_lengths_share_a_padded_batch_and_get_their_own_lengths_back(
    groups: GroupMaker,
) -> None:
    padding = (PaddingSpec(input="x", value="-7", outputs=(CroppedOutput(name="y"),)),)
    arrays = [np.arange(n, dtype=np.int64).reshape(1, n) for n in (16, 19, 18)]
    answers = await together(groups, 'return {"y": x * 2}', arrays, batching={"padding": padding})
    for array, answer in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(answer, array * 2)
    assert (groups.folder / "shapes").read_text().splitlines() == ["[1, 16]", "[3, 19]"]
    tally = groups.groups[0].stats().tally
    assert tally.padded_elements <= 1.25 * tally.real_elements


async def test_ragged_rows_reach_the_model_end_to_end(groups: GroupMaker) -> None:
    ragged = RaggedSpec(inputs=("x",), offsets_input="offsets", outputs=("y",))
    arrays = [np.arange(n, dtype=np.int64).reshape(1, n) for n in (3, 50, 7)]
    answer = "offsets = inputs['offsets']; return {'y': x + offsets[-1]}"
    answers = await together(groups, answer, arrays, batching={"ragged": ragged})
    for array, given in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(given, array + 60)
    assert (groups.folder / "shapes").read_text().splitlines() == ["[3]", "[60]"]


async def test_a_model_may_fail_one_request_of_a_batch_by_itself(groups: GroupMaker) -> None:
    source = """
    class Model:
        def infer_batch(self, requests):
            return [ValueError("odd") if r["x"][0, 0] % 2 else {"y": r["x"] * 2} for r in requests]
    """
    group = await groups.start(source)
    with pytest.raises(ModelError, match="odd"):
        await ask(group, column(1))
    results = await asyncio.gather(*(ask(group, column(value)) for value in range(8)), return_exceptions=True)
    for value, result in enumerate(results):
        if value % 2:
            assert isinstance(result, ModelError)
            assert "odd" in str(result)
        else:
            np.testing.assert_array_equal(result, column(2 * value))


async def test_a_batch_that_runs_out_of_memory_is_halved_and_the_size_remembered(groups: GroupMaker) -> None:
    answer = """
            if len(x) > 2:
                raise MemoryError("no room")
            return {"y": x * 2}
    """.strip()
    arrays = [column(value) for value in range(8)]
    answers = await together(groups, answer, arrays, idempotent=True)
    for array, given in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(given, array * 2)
    group = groups.groups[0]
    assert group._work.policy.cap.rows == 2
    await asyncio.gather(*(ask(group, column(value)) for value in range(8)))
    assert max(rows for rows, _ in group.stats().batch_sizes.items() if rows <= 2) == 2


async def test_the_urgent_are_served_before_the_usual(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, batching={"max_batch_size": 1, "max_queue_size": 10})
    blocked = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    order: list[str] = []

    async def note(name: str, priority: int) -> None:
        deadline = asyncio.get_running_loop().time() + 20
        inputs = {"x": Tensor.from_array(column(WORK))}
        outputs = await group.infer(inputs, request_id=name, deadline=deadline, priority=priority)
        order.append(name)
        for tensor in outputs.values():
            tensor.release()

    tasks = [asyncio.create_task(note("ahead", 9))]
    await eventually(lambda: group.stats().in_flight == 2)
    tasks += [asyncio.create_task(note(name, level)) for name, level in (("low", 9), ("usual", 0), ("urgent", 1))]
    await eventually(lambda: group.stats().requests == 5)
    groups.go()
    await asyncio.gather(blocked, *tasks)
    assert order == ["ahead", "urgent", "usual", "low"], "the first was in the worker's hands already"


async def test_a_full_batch_is_handed_over_before_the_worker_is_free(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, batching={"max_batch_size": 2})
    blocked = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    rest = [asyncio.create_task(ask(group, column(WORK))) for _ in range(3)]
    await eventually(lambda: group.stats().in_flight == 3)
    assert group.stats().queue_depth == 1, "the batch that is not full stays open"
    groups.go()
    await asyncio.gather(blocked, *rest)
    assert group.stats().tally.closed[Closed.AHEAD] == 1


async def test_a_hanging_model_holds_up_no_other_group_of_its_device(groups: GroupMaker) -> None:
    cpus = groups.pod.run_devices.of("cpu").credits.units
    stuck = await groups.start(CONTROLLED, instances=cpus)
    blocked = [asyncio.create_task(ask(stuck, column(BLOCK))) for _ in range(cpus)]
    await eventually(lambda: len(groups.begun()) >= 1)
    other = await groups.start()
    np.testing.assert_array_equal(await ask(other, column(3)), column(6))
    groups.go()
    await asyncio.gather(*blocked)
