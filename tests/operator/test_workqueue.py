import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.virtual_time import in_virtual_time, now

from podium_operator.metrics import Metrics
from podium_operator.workqueue import BackOff, Key, Priority, Workers, WorkQueue

A = Key("InferenceModel", "default", "a")
B = Key("InferenceModel", "default", "b")
C = Key("InferencePipeline", "default", "c")


def a_queue(**options: float) -> WorkQueue:
    return WorkQueue(Metrics(), BackOff(**{"jitter": 0.0, **options}))


@in_virtual_time
async def test_a_key_added_many_times_is_handed_out_once() -> None:
    queue = a_queue()
    for _ in range(100):
        queue.add(A)
    assert len(queue) == 1
    assert await queue.get() == A
    assert len(queue) == 0


@in_virtual_time
async def test_keys_come_in_the_order_they_were_added() -> None:
    queue = a_queue()
    for key in (B, A, C, B):
        queue.add(key)
    assert [await queue.get() for _ in range(3)] == [B, A, C]


@in_virtual_time
async def test_a_key_in_work_is_not_handed_out_to_a_second_worker() -> None:
    queue = a_queue()
    queue.add(A)
    await queue.get()
    queue.add(A)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await queue.get()


@in_virtual_time
async def test_any_number_of_adds_during_a_pass_cause_one_more() -> None:
    queue = a_queue()
    queue.add(A)
    await queue.get()
    for _ in range(10):
        queue.add(A)
    queue.done(A)
    assert await queue.get() == A
    queue.done(A)
    assert queue.idle


@in_virtual_time
async def test_live_events_pass_before_the_resync() -> None:
    queue = a_queue()
    queue.add(A, Priority.RESYNC)
    queue.add(B, Priority.RESYNC)
    queue.add(C, Priority.LIVE)
    assert [await queue.get() for _ in range(3)] == [C, A, B]


@in_virtual_time
async def test_a_live_event_raises_the_priority_of_a_waiting_key() -> None:
    queue = a_queue()
    for key in (A, B):
        queue.add(key, Priority.RESYNC)
    queue.add(B, Priority.LIVE)
    assert [await queue.get() for _ in range(2)] == [B, A]
    assert len(queue) == 0


@in_virtual_time
async def test_a_resync_does_not_lower_the_priority_of_a_waiting_key() -> None:
    queue = a_queue()
    queue.add(A, Priority.LIVE)
    queue.add(A, Priority.RESYNC)
    queue.add(B, Priority.LIVE)
    assert [await queue.get() for _ in range(2)] == [A, B]


@in_virtual_time
async def test_a_delayed_key_comes_when_due() -> None:
    queue = a_queue()
    queue.add_after(A, 30.0)
    assert len(queue) == 0
    assert await queue.get() == A
    assert now() == 30.0


@in_virtual_time
async def test_of_two_delays_the_earlier_counts() -> None:
    queue = a_queue()
    queue.add_after(A, 30.0)
    queue.add_after(A, 10.0)
    queue.add_after(A, 20.0)
    assert await queue.get() == A
    assert now() == 10.0
    queue.done(A)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await queue.get()


@in_virtual_time
async def test_an_event_ends_a_delay() -> None:
    queue = a_queue()
    queue.add_after(A, 30.0)
    queue.add(A)
    assert await queue.get() == A
    assert now() == 0.0


@in_virtual_time
async def test_a_delay_asked_for_by_a_pass_yields_to_an_event_during_it() -> None:
    queue = a_queue()
    queue.add(A)
    await queue.get()
    queue.add(A)
    queue.done(A, requeue_after_s=30.0)
    assert await queue.get() == A
    assert now() == 0.0


@in_virtual_time
async def test_failures_of_a_key_back_off_to_the_cap() -> None:
    queue = a_queue()
    seen = []
    queue.add(A)
    for _ in range(10):
        await queue.get()
        seen.append(queue.failed(A))
    assert seen == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert await queue.get() == A
    assert now() == sum(seen)


@in_virtual_time
async def test_success_forgets_failures() -> None:
    queue = a_queue()
    queue.add(A)
    for _ in range(5):
        await queue.get()
        queue.failed(A)
    await queue.get()
    queue.done(A)
    queue.add(A)
    await queue.get()
    assert queue.failed(A) == 0.25


@in_virtual_time
async def test_failures_of_one_key_do_not_delay_another() -> None:
    queue = a_queue()
    queue.add(A)
    await queue.get()
    for _ in range(8):
        queue.failed(A)
    queue.add(B)
    await queue.get()
    assert queue.failed(B) == 0.25


@in_virtual_time
async def test_an_event_during_a_failing_pass_is_tried_after_the_first_step_of_the_back_off() -> None:
    queue = a_queue()
    queue.add(A)
    for _ in range(8):
        await queue.get()
        queue.failed(A)
    await queue.get()
    queue.add(A)
    assert queue.failed(A) == 0.25


@given(failures=st.integers(1, 10_000))
def test_back_off_stays_within_its_bounds(failures: int) -> None:
    back_off = BackOff(base_s=0.25, cap_s=60.0, jitter=0.2)
    assert 0.2 <= back_off.delay_s(failures) <= 60.0


@in_virtual_time
async def test_a_closed_queue_hands_out_nothing_and_ends_its_readers() -> None:
    queue = a_queue()
    reader = asyncio.create_task(queue.get())
    await asyncio.sleep(1)
    queue.close()
    assert await reader is None
    queue.add(A)
    queue.add_after(B, 1.0)
    assert await queue.get() is None


@in_virtual_time
async def test_no_two_workers_ever_hold_the_same_key_and_none_is_lost() -> None:
    queue = a_queue()
    running: set[Key] = set()
    passes: dict[Key, float] = {}
    added: dict[Key, float] = {}

    async def handle(key: Key) -> None:
        assert key not in running
        running.add(key)
        passes[key] = now()
        await asyncio.sleep(0.7)
        running.remove(key)

    workers = Workers(queue, handle, count=3)
    workers.start()
    for step in range(200):
        key = (A, B, C)[step * 7 % 3]
        queue.add(key, Priority(step % 2))
        added[key] = now()
        await asyncio.sleep(0.11)
    await asyncio.sleep(10)
    assert queue.idle
    # Level-triggered: the last pass over each key began after the last event about it.
    assert all(passes[key] >= added[key] for key in (A, B, C))
    await workers.stop(grace_s=1)


@in_virtual_time
async def test_a_worker_survives_a_failing_pass_and_tries_again() -> None:
    queue = a_queue()
    tries: list[float] = []

    async def handle(_: Key) -> None:
        tries.append(now())
        if len(tries) < 4:
            raise RuntimeError("not yet")

    workers = Workers(queue, handle, count=1)
    workers.start()
    queue.add(A)
    await asyncio.sleep(60)
    assert tries == [0.0, 0.25, 0.75, 1.75]
    await workers.stop(grace_s=1)


@in_virtual_time
async def test_stopping_lets_a_pass_finish() -> None:
    queue = a_queue()
    finished = []

    async def handle(key: Key) -> None:
        await asyncio.sleep(5)
        finished.append(key)

    workers = Workers(queue, handle, count=2)
    workers.start()
    for key in (A, B, C):
        queue.add(key)
    await asyncio.sleep(1)
    await workers.stop(grace_s=10)
    assert now() == 5.0
    assert finished == [A, B]


@in_virtual_time
async def test_stopping_cancels_a_pass_that_outlasts_the_grace() -> None:
    queue = a_queue()
    cancelled = []

    async def handle(key: Key) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(key)
            raise

    workers = Workers(queue, handle, count=1)
    workers.start()
    queue.add(A)
    await asyncio.sleep(1)
    await workers.stop(grace_s=10)
    assert now() == 11.0
    assert cancelled == [A]


def test_a_pool_of_no_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="count is 0"):
        Workers(a_queue(), lambda _: asyncio.sleep(0), count=0)


@in_virtual_time
async def test_the_queue_tells_its_depth_and_how_long_keys_waited() -> None:
    metrics = Metrics()
    queue = WorkQueue(metrics)
    queue.add(A)
    queue.add(B)
    assert "podium_operator_workqueue_depth 2.0" in metrics.exposition().decode()
    await asyncio.sleep(3)
    await queue.get()
    text = metrics.exposition().decode()
    assert "podium_operator_workqueue_depth 1.0" in text
    assert "podium_operator_workqueue_adds_total 2.0" in text
    assert "podium_operator_workqueue_queue_duration_seconds_sum 3.0" in text
