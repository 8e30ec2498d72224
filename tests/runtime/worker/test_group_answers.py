"""Requests through real worker processes: right answers, real batches, typed refusals."""

import asyncio

import numpy as np
import pytest
from tests.runtime.worker.models import BLOCK, CONTROLLED, RAISE, WORK, GroupMaker, ask, column
from tests.support.waiting import eventually

from podium.errors import BatchTooLarge, DeadlineExceeded, GroupStopped, ModelError, QueueFull
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import GroupState
from podium_crds.assignment import Batching
from podium_crds.tensors import DType, TensorSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_many_requests_at_once_each_get_their_own_rows_byte_for_byte(groups: GroupMaker) -> None:
    group = await groups.start(instances=2)
    rng = np.random.default_rng(0)
    arrays = [rng.random((1 + i % 5, 300)).astype(np.float32) for i in range(200)]
    answers = await asyncio.gather(*(ask(group, array) for array in arrays))
    for array, answer in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(answer, array * 2)
    stats = group.stats()
    assert stats.requests == 200
    assert sum(rows * batches for rows, batches in stats.batch_sizes.items()) == sum(len(a) for a in arrays)
    assert stats.batches < 200, "requests that waited together were batched"


async def test_ragged_shapes_are_answered_in_separate_batches(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    blocked = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    shapes = [(1, 2), (1, 3), (2, 2), (1, 3)]
    rest = [asyncio.create_task(ask(group, np.full(shape, WORK, np.float32))) for shape in shapes]
    await eventually(lambda: group.stats().queue_depth == 4)
    groups.go()
    await blocked
    assert [(await task).shape for task in rest] == shapes
    assert [rows for _, rows in groups.begun()] == [1, 3, 2]


async def test_what_waits_while_the_worker_is_busy_becomes_one_batch(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, batching={"max_batch_size": 8})
    blocked = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    rest = [asyncio.create_task(ask(group, column(WORK))) for _ in range(10)]
    await eventually(lambda: group.stats().requests == 11)
    groups.go()
    await asyncio.gather(blocked, *rest)
    assert group.stats().batch_sizes == {1: 1, 8: 1, 2: 1}


async def test_large_tensors_go_through_the_arena_and_come_back_leased(groups: GroupMaker) -> None:
    group = await groups.start()
    arena = groups.pod.arena
    tensor = arena.tensor(DType.FP32, (4, 50_000))
    tensor.array()[:] = np.arange(200_000).reshape(4, 50_000)
    outputs = await group.infer({"x": tensor}, request_id="r", deadline=asyncio.get_running_loop().time() + 20)
    assert outputs["y"].lease is not None
    assert group.stats().copies.gathered_bytes == 0
    tensor.release()
    np.testing.assert_array_equal(outputs["y"].array(), np.arange(200_000).reshape(4, 50_000) * np.float32(2))
    outputs["y"].release()


async def test_a_copy_is_counted_at_each_gather_and_each_store(groups: GroupMaker) -> None:
    group = await groups.start()
    await ask(group, np.ones((1, 50_000), np.float32))
    copies = group.stats().copies
    assert (copies.gathers, copies.stores, copies.stored_bytes) == (1, 1, 200_000)
    assert copies.gathered_bytes >= 200_000


async def test_outputs_that_no_grant_foresaw_still_arrive(groups: GroupMaker) -> None:
    source = """
    import numpy as np
    class Model:
        def infer(self, inputs):
            n = int(inputs["x"][0, 0])
            return {"y": np.arange(n * len(inputs["x"]), dtype=np.int64).reshape(len(inputs["x"]), n)}
    """
    group = await groups.start(source)
    for width in (10, 3_000, 100_000, 300_000, 10):
        answer = await ask(group, column(width))
        np.testing.assert_array_equal(answer[0], np.arange(width))


async def test_outputs_larger_than_the_arena_travel_in_the_message(groups: GroupMaker) -> None:
    source = """
    import numpy as np
    class Model:
        def infer(self, inputs):
            return {"y": np.full((1, 20_000_000), 7, np.uint8)}
    """
    group = await groups.start(source)
    answer = await ask(group, column(1))
    assert answer.shape == (1, 20_000_000)
    assert (answer == 7).all()


async def test_strings_are_batched_and_split(groups: GroupMaker) -> None:
    source = """
    import numpy as np
    class Model:
        def infer(self, inputs):
            return {"y": np.array([[t.upper(), t + b"!"] for t in inputs["x"]], dtype=object)}
    """
    group = await groups.start(source)
    texts = [np.array([f"a{i}-{j}".encode() for j in range(1 + i % 3)], dtype=object) for i in range(20)]
    answers = await asyncio.gather(*(ask(group, text) for text in texts))
    for text, answer in zip(texts, answers, strict=True):
        assert answer.tolist() == [[t.upper(), t + b"!"] for t in text]


async def test_infer_batch_sees_one_dictionary_per_request(groups: GroupMaker) -> None:
    source = """
    import time
    import numpy as np
    from podium import Model as Base
    class Model(Base):
        def infer_batch(self, requests):
            return [{"y": r["x"] * 0 + len(r["x"]) + 100 * (len(requests) > 1)} for r in requests]
    """
    group = await groups.start(source)
    answers = await asyncio.gather(*(ask(group, column(*[1] * n)) for n in (1, 2, 3)))
    assert [answer[0, 0] % 100 for answer in answers] == [1, 2, 3]
    assert [answer.shape for answer in answers] == [(1, 1), (2, 1), (3, 1)]


async def test_a_full_queue_refuses_with_a_time_to_come_back(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, batching={"max_queue_size": 2})
    tasks = [asyncio.create_task(ask(group, column(BLOCK)))]
    await eventually(groups.begun)
    tasks += [asyncio.create_task(ask(group, column(WORK))) for _ in range(2)]
    await eventually(lambda: group.stats().queue_depth == 2)
    with pytest.raises(QueueFull) as refused:
        await ask(group, column(WORK))
    assert refused.value.retry_after_s >= 1
    groups.go()
    await asyncio.gather(*tasks)


async def test_a_deadline_ends_a_request_in_the_queue_and_one_in_the_model(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    running = asyncio.create_task(ask(group, column(BLOCK), within_s=0.5))
    await eventually(groups.begun)
    with pytest.raises(DeadlineExceeded, match="waited"):
        await ask(group, column(WORK), within_s=0.05)
    with pytest.raises(DeadlineExceeded, match="model worked"):
        await running
    with pytest.raises(DeadlineExceeded):
        await ask(group, column(WORK), within_s=-1)
    assert group.stats().queue_depth == 0
    groups.go()
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))


async def test_a_cancelled_request_leaves_the_queue_and_is_never_run(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    running = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    waiting = asyncio.create_task(ask(group, column(WORK)))
    await eventually(lambda: group.stats().queue_depth == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert group.stats().queue_depth == 0
    groups.go()
    await running
    assert len(groups.begun()) == 1


async def test_a_request_cancelled_in_the_model_leaves_nothing_behind(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    big = np.full((1, 50_000), BLOCK, np.float32)
    running = asyncio.create_task(ask(group, big))
    await eventually(groups.begun)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    groups.go()
    await eventually(lambda: group.stats().in_flight == 0)
    assert groups.pod.arena.stats().slots == 0


async def test_a_request_larger_than_the_largest_batch_is_refused(groups: GroupMaker) -> None:
    group = await groups.start(batching={"max_batch_size": 4})
    with pytest.raises(BatchTooLarge):
        await ask(group, column(*range(5)))


async def test_new_limits_hold_from_the_next_request_on(groups: GroupMaker) -> None:
    group = await groups.start(batching={"max_batch_size": 4})
    group.set_batching(Batching(max_batch_size=8))
    assert (await ask(group, column(*range(8)))).shape == (8, 1)


async def test_an_exception_is_told_with_the_models_own_last_lines(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    with pytest.raises(ModelError, match="four is right out") as raised:
        await ask(group, column(RAISE))
    assert "model.py" in str(raised.value)
    assert len(str(raised.value)) <= 1024
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_bad_row_fails_alone_where_the_model_may_be_run_again(groups: GroupMaker, idempotent: bool) -> None:
    group = await groups.start(CONTROLLED, idempotent=idempotent)
    blocked = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    values = [WORK] * 6 + [RAISE] + [WORK]
    tasks = [asyncio.create_task(ask(group, column(value))) for value in values]
    await eventually(lambda: group.stats().queue_depth == 8)
    groups.go()
    await blocked
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [isinstance(result, ModelError) for result in results]
    if idempotent:
        assert failed == [value == RAISE for value in values]
        assert len(groups.begun()) <= 2 + 2 * 3
    else:
        assert all(failed)
        assert "set idempotent" in str(results[0])


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("{'z': x}", "declared"),
        ("{'y': x.astype('float64')}", "declared is FP32"),
        ("{'y': x[:0]}", "rows"),
        ("x", "dictionary"),
        ("{'y': x.astype('complex64')}", "complex"),
    ],
)
async def test_an_answer_that_breaks_the_contract_is_the_models_error(
    groups: GroupMaker, returned: str, complaint: str
) -> None:
    source = f"class Model:\n    def infer(self, inputs):\n        x = inputs['x']\n        return {returned}\n"
    group = await groups.start(source, outputs=(TensorSpec(name="y", dtype=DType.FP32, shape=(-1, 1)),))
    with pytest.raises(ModelError, match=complaint):
        await ask(group, column(1, 2))


async def test_a_model_cannot_write_to_its_inputs(groups: GroupMaker) -> None:
    source = """
    class Model:
        def infer(self, inputs):
            inputs["x"] *= 2
            return {"y": inputs["x"]}
    """
    group = await groups.start(source)
    for array in (column(1), np.ones((1, 50_000), np.float32)):
        with pytest.raises(ModelError, match="read-only"):
            await ask(group, array)


async def test_views_that_a_model_keeps_stay_true_and_do_not_pile_up(groups: GroupMaker) -> None:
    source = """
    import numpy as np
    class Model:
        def load(self, ctx):
            self.kept = []
        def infer(self, inputs):
            x = inputs["x"]
            if x[0, 0] < 0:
                self.kept.clear()
                return {"y": x}
            self.kept.append(x[:, ::2])
            assert all((kept == index).all() for index, kept in enumerate(self.kept)), "kept inputs have changed"
            return {"y": x[:, :1]}
    """
    group = await groups.start(source)
    arena = groups.pod.arena
    for index in range(5):
        await ask(group, np.full((1, 5000), index, np.float32))
    assert arena.stats().slots == 1, "the first is kept for the model, later ones it got as copies"
    await ask(group, np.full((1, 5000), -1, np.float32))
    assert arena.stats().slots == 0


async def test_garbage_in_a_cycle_is_not_taken_for_a_kept_view(groups: GroupMaker) -> None:
    source = """
    class Model:
        def infer(self, inputs):
            cycle = [inputs["x"]]
            cycle.append(cycle)
            return {"y": inputs["x"]}
    """
    group = await groups.start(source)
    for _ in range(3):
        await ask(group, np.ones((1, 5000), np.float32))
    assert groups.pod.arena.stats().slots == 0


async def test_a_stopped_group_finishes_what_it_has_and_refuses_the_rest(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    running = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    waiting = asyncio.create_task(ask(group, column(WORK)))
    await eventually(lambda: group.stats().queue_depth == 1)
    stopping = asyncio.create_task(group.stop(20))
    await eventually(lambda: group.stats().state is GroupState.STOPPED)
    with pytest.raises(GroupStopped):
        await ask(group, column(WORK))
    groups.go()
    np.testing.assert_array_equal(await running, column(4))
    np.testing.assert_array_equal(await waiting, column(2))
    await stopping
    assert group.stats().pids == ()


async def test_a_group_stopped_without_grace_fails_what_it_has(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    running = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    waiting = asyncio.create_task(ask(group, column(WORK)))
    await eventually(lambda: group.stats().queue_depth == 1)
    await group.stop(0)
    for task in (running, waiting):
        with pytest.raises(GroupStopped):
            await task


async def test_a_model_unloads_when_it_is_stopped(groups: GroupMaker) -> None:
    source = """
    from pathlib import Path
    class Model:
        def load(self, ctx):
            self.folder = Path(ctx.parameters["folder"])
        def infer(self, inputs):
            return {"y": inputs["x"]}
        def unload(self):
            (self.folder / "unloaded").touch()
    """
    group = await groups.start(source)
    await group.stop(5)
    assert (groups.folder / "unloaded").exists()


async def test_inputs_stay_their_callers(groups: GroupMaker) -> None:
    group = await groups.start()
    tensor = groups.pod.arena.tensor(DType.FP32, (1, 3000))
    tensor.array()[:] = 1
    for _ in range(3):
        outputs = await group.infer({"x": tensor}, request_id="r", deadline=asyncio.get_running_loop().time() + 20)
        for output in outputs.values():
            output.release()
    assert tensor.lease is not None
    assert tensor.lease.count == 1
    tensor.release()


async def test_inputs_without_common_rows_are_answered_alone_and_whole(groups: GroupMaker) -> None:
    source = "class Model:\n    def infer(self, i):\n        return {'y': i['a'].sum() + i['b']}\n"
    group = await groups.start(source)
    inputs = {"a": Tensor.from_array(np.ones((2, 2))), "b": Tensor.from_array(np.zeros((5,)))}
    outputs = await group.infer(inputs, request_id="r", deadline=asyncio.get_running_loop().time() + 20)
    assert outputs["y"].array().tolist() == [4.0] * 5


async def test_the_output_of_one_model_is_the_input_of_the_next_without_a_copy(groups: GroupMaker) -> None:
    first, second = await groups.start(), await groups.start()
    until = asyncio.get_running_loop().time() + 20
    array = np.arange(100_000, dtype=np.float32).reshape(1, -1)
    given = await first.infer({"x": Tensor.from_array(array)}, request_id="r", deadline=until)
    middle = {"x": given["y"]}
    answers = await asyncio.gather(*(second.infer(middle, request_id="r", deadline=until) for _ in range(2)))
    given["y"].release()
    for answer in answers:
        np.testing.assert_array_equal(answer["y"].array(), array * 4)
        answer["y"].release()
    assert second.stats().batch_sizes == {1: 2}
    assert second.stats().copies.gathered_bytes == 0


async def test_instances_report_what_they_use_of_memory(groups: GroupMaker) -> None:
    stats = (await groups.start(instances=2)).stats()
    assert len(stats.pids) == 2
    assert stats.private_bytes > 1 << 20
    assert stats.shared_bytes > 1 << 20
