"""Slots for outputs are granted by the largest of late; what an answer leaves of its slot is free for others then."""

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.worker.models import GroupMaker, ask

from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
LARGE = 4 * MIB
SMALL = 1200 << 10
"""Bytes of an answer, above the largest class of slots."""
WIDE = """
    import numpy as np

    class Model:
        def infer(self, inputs):
            width, value = inputs["x"][0]
            return {"y": np.full((1, int(width)), value, np.uint8)}
"""
KEEPS = """
    import numpy as np

    class Model:
        kept = []

        def load(self, ctx):
            self.ctx = ctx

        def infer(self, inputs):
            width, value = inputs["x"][0]
            y = self.ctx.output("y", (1, int(width)), np.uint8)
            y[:] = value
            if value == 7:
                self.kept.append(self.ctx.output("z", (1, 1 << 18), np.uint8))
            return {"y": y}
"""


async def answered(group: WorkerGroup, width: int, value: int) -> Tensor:
    """The output, still leased."""
    inputs = {"x": Tensor.from_array(np.array([[width, value]], np.int64))}
    deadline = asyncio.get_running_loop().time() + 20
    return (await group.infer(inputs, request_id="test", deadline=deadline))["y"]


def all_are(tensor: Tensor, value: int) -> bool:
    return bool((tensor.array() == value).all())


async def test_an_answer_keeps_what_it_takes_and_no_more(groups: GroupMaker) -> None:
    group = await groups.start(WIDE)
    arena = groups.pod.arena
    for _ in range(4):
        (await answered(group, LARGE, 1)).release()
    assert arena.stats().used_bytes == 0
    first = await answered(group, SMALL, 2)
    second = await answered(group, SMALL, 3)
    taken = arena.stats().used_bytes
    assert 2 * SMALL <= taken <= 2 * SMALL + 2 * 4096
    rest = arena.allocate(arena.free_bytes - LARGE)  # what is left over is one range, not holes
    rest.data[:] = bytes(len(rest.data))
    third = await answered(group, SMALL, 4)
    assert (all_are(first, 2), all_are(second, 3), all_are(third, 4)) == (True, True, True)
    arena.ledger.check_integrity()
    for tensor in (first, second, third):
        tensor.release()
    rest.release()
    assert arena.stats().used_bytes == 0


async def test_a_slot_that_the_model_still_writes_to_stays_whole(groups: GroupMaker) -> None:
    group = await groups.start(KEEPS)
    arena = groups.pod.arena
    for _ in range(4):
        (await answered(group, LARGE, 1)).release()
    kept = await answered(group, SMALL, 7)
    assert arena.stats().used_bytes >= SMALL + (1 << 18), "the model keeps a place behind its answer"
    kept.release()
    assert arena.stats().used_bytes >= SMALL + (1 << 18)
    arena.ledger.check_integrity()


async def test_more_answers_are_kept_at_once_than_slots_of_the_largest_would_fit(groups: GroupMaker) -> None:
    group = await groups.start(WIDE)
    arena = groups.pod.arena
    for _ in range(4):
        (await answered(group, LARGE, 1)).release()
    copies: list[NDArray[Any]] = []
    kept = [await answered(group, SMALL, value) for value in range(10, 18)]
    assert all(tensor.lease is not None for tensor in kept), "none had to travel in a message"
    assert len(kept) * LARGE > arena.size_bytes
    copies += [tensor.array().copy() for tensor in kept]
    assert [int(copy[0, 0]) for copy in copies] == list(range(10, 18))
    assert await ask(group, np.array([[16, 1]], np.int64)) is not None
    for tensor in kept:
        tensor.release()
    assert arena.stats().used_bytes == 0
