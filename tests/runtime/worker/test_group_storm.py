"""Everything at once: large and small tensors, cancellations, short deadlines, and workers killed meanwhile."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter

import numpy as np
import pytest
from tests.runtime.worker.models import GroupMaker, ask, column
from tests.support.waiting import eventually

from podium.errors import ArenaExhausted, DeadlineExceeded, PoisonedRequest, PredictedLate, WorkerDied
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import GroupState, WorkerGroup
from podium_crds.tensors import DType

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = 400
KILLS = 8
SLOW_DOUBLE = """
    import time
    class Model:
        def infer(self, inputs):
            time.sleep(0.002)
            return {"y": inputs["x"] * 2, "n": inputs["x"][:, :1]}
"""
EXPECTED = (ArenaExhausted, DeadlineExceeded, PoisonedRequest, PredictedLate, WorkerDied, asyncio.CancelledError)


class Storm:
    """One seeded storm on one group."""

    def __init__(self, group: WorkerGroup, groups: GroupMaker, seed: int) -> None:
        self.group = group
        self.arena = groups.pod.arena
        self.random = random.Random(seed)
        self.ended = Counter[str]()

    async def request(self, number: int) -> None:
        """One request with a shape, place, deadline and fate of its own; checks its answer."""
        rows, width = self.random.randint(1, 4), self.random.choice([1, 7, 3_000, 10_000])
        array = np.full((rows, width), number, np.float32)
        tensor = Tensor.from_array(array)
        if self.random.random() < 0.5:
            with contextlib.suppress(ArenaExhausted):
                tensor = self.arena.tensor(DType.FP32, (rows, width))
                tensor.array()[:] = array
        within_s = self.random.choice([0.02, 30.0, 30.0, 30.0])
        try:
            deadline = asyncio.get_running_loop().time() + within_s
            outputs = await self.group.infer({"x": tensor}, request_id=str(number), deadline=deadline)
        except EXPECTED as error:
            self.ended[type(error).__name__] += 1
            return
        finally:
            tensor.release()
        right = (outputs["y"].array() == 2 * number).all() and outputs["y"].shape == (rows, width)
        self.ended["right" if right and (outputs["n"].array() == number).all() else "wrong"] += 1
        for output in outputs.values():
            output.release()

    async def fate(self, task: "asyncio.Task[None]") -> None:
        """Some callers go away."""
        if self.random.random() < 0.1:
            await asyncio.sleep(self.random.random() * 0.05)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def killer(self) -> None:
        """Ends a worker again and again, each time once all are back."""
        for _ in range(KILLS):
            await eventually(lambda: self.group.stats().pids)
            await asyncio.sleep(self.random.random() * 0.1)
            for pid in self.group.stats().pids[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def blow(self) -> None:
        """Until every request has ended."""
        killer = asyncio.create_task(self.killer())
        waiting: list[asyncio.Task[None]] = []
        for number in range(REQUESTS):
            waiting.append(asyncio.create_task(self.fate(asyncio.create_task(self.request(number)))))
            await asyncio.sleep(self.random.random() * 0.004)
        await asyncio.gather(*waiting)
        await killer


@pytest.mark.parametrize(("seed", "idempotent"), [(1, True), (2, False)])
async def test_a_storm_loses_no_request_and_no_lease(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch, seed: int, idempotent: bool
) -> None:
    monkeypatch.setattr("podium.serving.workers.backoff.FIRST_BACKOFF_S", 0.005)
    group = await groups.start(SLOW_DOUBLE, instances=2, idempotent=idempotent, batching={"max_queue_size": REQUESTS})
    storm = Storm(group, groups, seed)
    await storm.blow()
    assert storm.ended["wrong"] == 0
    assert storm.ended.total() == REQUESTS, storm.ended
    assert storm.ended["right"] > REQUESTS // 2, storm.ended
    assert bool(storm.ended["WorkerDied"]) <= (not idempotent), storm.ended
    await eventually(lambda: group.stats().state in (GroupState.READY, GroupState.CRASH_LOOP))
    await eventually(lambda: group.stats().pids)
    np.testing.assert_array_equal(await ask(group, column(3)), column(6))
    assert group.stats().queue_depth == 0
    assert groups.pod.arena.stats().slots == 0
