"""A request is let in only where the arena has room for its inputs and outputs; a refusal says when to come back."""

import asyncio

import numpy as np
import pytest
from tests.runtime.worker.models import BLOCK, CONTROLLED, WORK, GroupMaker, ask
from tests.support.waiting import eventually

from podium.errors import ArenaExhausted
from podium.serving.workers.pod import PodResources

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIDE = 500_000
"""Elements of one request: 2 MB in, 2 MB out, in an arena of 16 MiB."""


async def test_requests_beyond_the_arena_are_refused_with_a_time_and_those_let_in_are_answered(
    groups: GroupMaker,
) -> None:
    group = await groups.start(CONTROLLED, batching={"max_batch_size": 1})
    arena = groups.pod.arena
    running = asyncio.create_task(ask(group, np.full((1, SIDE), BLOCK, np.float32)))
    await eventually(groups.begun)
    waiting = [asyncio.create_task(ask(group, np.full((1, SIDE), WORK, np.float32))) for _ in range(20)]
    refused = await eventually(lambda: [task for task in waiting if task.done()])
    assert arena.stats().used_bytes + arena.stats().promised_bytes <= arena.size_bytes
    for task in refused:
        error = task.exception()
        assert isinstance(error, ArenaExhausted)
        assert error.retry_after_s >= 1
        assert "arenaBytes" in str(error)
    groups.go()
    for task in {running, *waiting} - set(refused):
        assert (await task).shape == (1, SIDE)
    assert len(refused) < 20
    assert arena.stats().promised_bytes == 0


async def test_a_batch_is_formed_no_larger_than_what_the_arena_has_left(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, batching={"max_batch_size": 8})
    running = asyncio.create_task(ask(group, np.full((1, 4), BLOCK, np.float32)))
    await eventually(groups.begun)
    waiting = [asyncio.create_task(ask(group, np.full((1, SIDE // 4), WORK, np.float32))) for _ in range(6)]
    await eventually(lambda: group.stats().queue_depth + group.stats().in_flight == 7)
    in_hand = 6 - group.stats().queue_depth
    taken = groups.pod.arena.allocate(groups.pod.arena.free_bytes - 2 * SIDE - (64 << 10))
    try:
        groups.go()
        for task in (running, *waiting):
            await task
    finally:
        taken.release()
    sizes = [rows for _, rows in groups.begun()][1 + bool(in_hand) :]
    assert sum(sizes) == 6 - in_hand
    assert max(sizes) <= 2, "two inputs of 500 kB and their outputs are what fits in 2 * SIDE bytes"


async def test_promises_end_with_what_was_cancelled_and_what_a_dead_worker_had(groups: GroupMaker) -> None:
    group = await groups.start(CONTROLLED, batching={"max_batch_size": 1})
    running = asyncio.create_task(ask(group, np.full((1, SIDE), BLOCK, np.float32)))
    await eventually(groups.begun)
    waiting = [asyncio.create_task(ask(group, np.full((1, SIDE), WORK, np.float32))) for _ in range(3)]
    await eventually(lambda: group.stats().queue_depth + group.stats().in_flight == 4)
    assert group.stats().queue_depth >= 2, "one may be in the worker's hands ahead of its turn"
    assert groups.pod.arena.stats().promised_bytes >= 2 * 4 * SIDE
    for task in (running, *waiting):
        task.cancel()
    await asyncio.gather(running, *waiting, return_exceptions=True)
    assert groups.pod.arena.stats().promised_bytes == 0


async def test_a_small_request_asks_for_nothing_and_passes_a_full_arena(groups: GroupMaker) -> None:
    group = await groups.start()
    full = groups.pod.arena.allocate(groups.pod.arena.size_bytes)
    assert (await ask(group, np.ones((1, 8), np.float32))).shape == (1, 8)
    with pytest.raises(ArenaExhausted, match="0 of"):
        await ask(group, np.ones((1, SIDE), np.float32))
    full.release()
    assert (await ask(group, np.ones((1, SIDE), np.float32))).shape == (1, SIDE)


async def test_one_that_is_larger_than_the_arena_is_still_answered_when_it_is_alone(pod: PodResources) -> None:
    promise = pod.arena.promise(10 * pod.arena.size_bytes)
    assert pod.arena.stats().promised_bytes < pod.arena.size_bytes
    promise.end()
    promise.end()
    assert pod.arena.stats().promised_bytes == 0
