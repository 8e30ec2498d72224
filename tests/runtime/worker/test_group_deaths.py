"""Workers are killed at every point, and each request still ends once: answered, retried, or with a typed error."""

import asyncio
import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.worker.models import BLOCK, CONTROLLED, DIE, DIE_ONCE, RAISE, WORK, GroupMaker, ask, column
from tests.support.alive import alive
from tests.support.waiting import eventually

from podium.errors import DeadlineExceeded, PoisonedRequest, WorkerDied
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import GroupState, WorkerGroup
from podium.serving.workers.supervisor import Supervisor

pytestmark = pytest.mark.asyncio(loop_scope="module")


def kill(group: WorkerGroup) -> None:
    """SIGKILL for the first worker."""
    os.kill(group.stats().pids[0], signal.SIGKILL)


def has_restarted(group: WorkerGroup, times: int) -> bool:
    return group.stats().restarts == times


def only(group: WorkerGroup) -> Supervisor:
    (instance,) = group._instances
    return instance


async def test_a_started_request_gets_an_error_that_says_so_and_answers_go_on(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    running = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    waiting = asyncio.create_task(ask(group, column(WORK)))
    await eventually(lambda: group.stats().queue_depth == 1)
    kill(group)
    with pytest.raises(WorkerDied, match="SIGKILL") as died:
        await running
    assert died.value.started
    assert died.value.retry_after_s >= 1
    np.testing.assert_array_equal(await waiting, column(2))
    assert group.stats().restarts == 1


async def test_a_request_that_was_not_begun_is_given_to_the_next_worker(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    (first,) = group.stats().pids
    os.kill(first, signal.SIGSTOP)
    waiting = asyncio.create_task(ask(group, column(WORK)))
    await eventually(lambda: group.stats().in_flight == 1)
    os.kill(first, signal.SIGKILL)
    np.testing.assert_array_equal(await waiting, column(2))
    assert [pid for pid, _ in groups.begun()] != [first]
    assert len(groups.begun()) == 1


async def test_a_started_request_of_an_idempotent_model_is_retried_once(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, idempotent=True)
    np.testing.assert_array_equal(await ask(group, column(DIE_ONCE)), column(10))
    assert len({pid for pid, _ in groups.begun()}) == 2


async def test_a_request_present_at_two_deaths_is_poison_and_its_company_is_not(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, idempotent=True)
    blocked = asyncio.create_task(ask(group, column(BLOCK)))
    await eventually(groups.begun)
    values = [WORK, WORK, DIE, WORK]
    tasks = [asyncio.create_task(ask(group, column(value))) for value in values]
    await eventually(lambda: group.stats().queue_depth == 4)
    groups.go()
    await blocked
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, PoisonedRequest) for result in results] == [value == DIE for value in values]
    assert [type(result) for result in results].count(np.ndarray) == 3
    assert group.stats().restarts == 2


async def test_a_model_that_dies_at_once_is_never_asked_the_same_twice_unless_idempotent(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    with pytest.raises(WorkerDied):
        await ask(group, column(DIE))
    assert len(groups.begun()) == 1


async def test_one_of_two_workers_dies_and_every_request_ends_once(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, instances=2, batching={"max_batch_size": 4})
    tasks = [asyncio.create_task(ask(group, column(WORK))) for _ in range(100)]
    await eventually(lambda: len(groups.begun()) > 3)
    kill(group)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = Counter(type(result) for result in results)
    assert set(kinds) <= {np.ndarray, WorkerDied}
    assert kinds[WorkerDied] <= 4, "at most the batch that was in its hands"
    await eventually(lambda: group.stats().state is GroupState.READY)


async def test_a_killed_worker_leaves_no_lease_on_large_tensors(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    running = asyncio.create_task(ask(group, np.full((1, 100_000), BLOCK, np.float32)))
    await eventually(groups.begun)
    assert groups.pod.arena.stats().slots >= 1
    kill(group)
    with pytest.raises(WorkerDied):
        await running
    await eventually(lambda: groups.pod.arena.stats().slots == 0)


async def test_a_hung_worker_is_killed_and_replaced(groups: GroupMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podium.serving.dispatch.hanging.HANG_GRACE_S", 0.2)
    group = await groups.start(CONTROLLED, timeout_seconds=0)
    (first,) = group.stats().pids
    with pytest.raises(DeadlineExceeded):
        await ask(group, column(BLOCK), within_s=0.2)
    await eventually(lambda: group.stats().restarts == 1 and group.stats().state is GroupState.READY)
    assert group.stats().pids != (first,)
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))


async def test_a_model_may_say_after_how_long_it_is_hung(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, timeout_seconds=600, hang_timeout_seconds=1)
    (first,) = group.stats().pids
    with pytest.raises(WorkerDied, match="hung"):
        await ask(group, column(BLOCK), within_s=600)
    await eventually(lambda: group.stats().restarts == 1 and group.stats().state is GroupState.READY)
    assert group.stats().pids != (first,)


async def test_a_batch_that_hangs_after_others_were_answered_is_found(groups: GroupMaker) -> None:
    """The watch was set for the first batch, which is long gone when it rings: it must look on."""
    group = await groups.start(CONTROLLED, timeout_seconds=600, hang_timeout_seconds=1)
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))
    assert group.stats().restarts == 0
    with pytest.raises(WorkerDied, match="hung"):
        await ask(group, column(BLOCK), within_s=600)
    await eventually(lambda: group.stats().restarts == 1 and group.stats().state is GroupState.READY)


async def test_warm_up_may_take_its_own_time(groups: GroupMaker) -> None:
    """Its deadline is beyond what any request has."""
    group = await groups.start(CONTROLLED, timeout_seconds=1, hang_timeout_seconds=1)
    warm_up = asyncio.create_task(ask(group, column(BLOCK), within_s=600))
    await eventually(groups.begun)
    await asyncio.sleep(1.5)  # longer than the limit for requests, which is what must not apply
    assert group.stats().restarts == 0
    groups.go()
    np.testing.assert_array_equal(await warm_up, column(4))


async def test_a_short_client_deadline_does_not_get_a_slow_model_killed(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podium.serving.dispatch.hanging.HANG_GRACE_S", 0.0)
    group = await groups.start(CONTROLLED, timeout_seconds=30)
    with pytest.raises(DeadlineExceeded):
        await ask(group, column(BLOCK), within_s=0.1)
    groups.go()
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))
    assert group.stats().restarts == 0


async def test_a_model_that_keeps_dying_shows_as_a_crash_loop(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podium.serving.workers.backoff.FIRST_BACKOFF_S", 0.01)
    group = await groups.start(CONTROLLED)
    for deaths in range(1, 4):
        with pytest.raises(WorkerDied):
            await ask(group, column(DIE))
        await eventually(partial(has_restarted, group, deaths))
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))
    monkeypatch.setattr("podium.serving.workers.backoff.FIRST_BACKOFF_S", 30.0)
    kill(group)
    await eventually(lambda: group.stats().state is GroupState.CRASH_LOOP)


async def test_children_of_a_killed_worker_go_with_it(groups: GroupMaker) -> None:
    source = """
    import subprocess
    class Model:
        def load(self, ctx):
            self.child = subprocess.Popen(["sleep", "300"])
        def infer(self, inputs):
            return {"y": inputs["x"] * 0 + self.child.pid}
    """
    group = await groups.start(source)
    child = int((await ask(group, np.zeros((1, 1), np.int64)))[0, 0])
    os.kill(child, 0)
    kill(group)

    await eventually(lambda: not alive(child))


async def test_a_worker_that_answers_for_a_slot_it_was_not_given_is_killed(groups: GroupMaker) -> None:
    source = """
    from podium.worker.instance import Instance
    from podium.ipc.descriptor import Descriptor
    from podium.ipc.protocol import Reply
    from podium_crds.tensors import DType

    def hostile(self, dispatch, payloads, ask):
        grant = dispatch.grant
        forged = Descriptor(0, 1, 0, 4, DType.FP32, (1, 1))
        return Reply(dispatch.epoch, dispatch.batch, {"y": forged}, 0.0), []

    class Model:
        def load(self, ctx):
            Instance.run = hostile
        def infer(self, inputs):
            return inputs
    """
    group = await groups.start(source)
    secret = groups.pod.arena.allocate(4096)
    secret.data[:] = b"s" * 4096
    groups.pod.arena.ledger.seal(secret.lease.slot)
    with pytest.raises(Exception, match="refused"):
        await ask(group, column(WORK))
    await eventually(lambda: group.stats().restarts == 1)
    secret.release()


async def test_a_worker_that_speaks_out_of_turn_is_killed(groups: GroupMaker) -> None:
    source = """
    from podium.worker.batches import Batches
    from podium.ipc.protocol import Failure

    original = Batches.run
    def hostile(self, dispatch, payloads):
        self._link.send(Failure(dispatch.epoch, dispatch.batch + 1, "not mine"))
        original(self, dispatch, payloads)

    class Model:
        def load(self, ctx):
            Batches.run = hostile
        def infer(self, inputs):
            return {"y": inputs["x"]}
    """
    group = await groups.start(source)
    with pytest.raises(WorkerDied, match="batch that it does not have"):
        await ask(group, column(WORK))


async def test_an_input_that_a_worker_cannot_believe_is_refused_there(groups: GroupMaker) -> None:
    group = await groups.start()
    lying = Tensor.from_array(column(1))
    object.__setattr__(lying, "shape", (1, 3))
    with pytest.raises(Exception, match="takes 12 bytes"):
        await group.infer({"x": lying}, request_id="r", deadline=asyncio.get_running_loop().time() + 20)
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))
    assert only(group).restarts == 0


async def test_a_model_that_keeps_too_much_of_the_arena_gets_a_new_process(groups: GroupMaker) -> None:
    source = """
    class Model:
        kept = []
        def infer(self, inputs):
            self.kept.append(inputs["x"])
            return {"y": inputs["x"][:, :1]}
    """
    group = await groups.start(source)
    assert (await ask(group, np.ones((1, 2_000_000), np.float32))).shape == (1, 1)
    await eventually(lambda: group.stats().restarts == 1)
    assert groups.pod.arena.stats().slots == 0


async def test_a_restarted_worker_warms_up_before_it_takes_requests(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    group.set_warm_up([{"x": Tensor.from_array(column(*[WORK] * 7))}])
    kill(group)
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))
    assert [rows for _, rows in groups.begun()] == [7, 1]


async def test_a_restarted_worker_has_the_time_for_warm_up_that_was_promised(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, timeout_seconds=600, hang_timeout_seconds=1, warmup_timeout_seconds=60)
    group.set_warm_up([{"x": Tensor.from_array(column(BLOCK))}])
    kill(group)
    await eventually(groups.begun)
    begun, clock = time.monotonic(), time.monotonic
    await eventually(lambda: clock() > begun + 1.5)  # longer than the limit for requests, which is what must not apply
    groups.go()
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))
    assert group.stats().restarts == 1
    assert [rows for _, rows in groups.begun()] == [1, 1]


async def test_a_warm_up_that_raises_keeps_no_worker_from_its_work(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED)
    group.set_warm_up(
        [{"x": Tensor.from_array(column(RAISE))}, {"x": Tensor.from_array(np.ones((1, 9000), np.float32))}]
    )
    kill(group)
    np.testing.assert_array_equal(await ask(group, column(WORK)), column(2))
    assert len(groups.begun()) == 3


async def test_restarts_leave_no_descriptor_open(groups: GroupMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podium.serving.workers.backoff.FIRST_BACKOFF_S", 0.001)
    group = await groups.start(CONTROLLED)
    await ask(group, column(WORK))
    before = open_descriptors()
    for restarts in range(1, 5):
        kill(group)
        await eventually(partial(has_restarted, group, restarts))
        await ask(group, column(WORK))
    await eventually(lambda: open_descriptors() <= before)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
