"""The loop of a worker, in a thread of this process, talked to over its real socket."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.worker.conversation import EPOCH, TOKEN, Conversation, a_model
from tests.support.waiting import eventually

from podium.ipc.descriptor import Descriptor, Inline
from podium.ipc.journal import Journal
from podium.ipc.protocol import Cancel, Dispatch, Failure, Hello, LoadFailed, Ready, Reply, Stop
from podium_crds.tensors import DType

SOURCE = """
    class Model:
        def infer(self, inputs):
            return {"y": inputs["x"] + 1}
"""


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Conversation]:
    """Loaded and ready."""
    conversation = Conversation(tmp_path, a_model(tmp_path, SOURCE))
    try:
        hello, ready = (await conversation.hears(2))[:2]
        assert hello == Hello(EPOCH, TOKEN, os.getpid())
        assert isinstance(ready, Ready)
        yield conversation
    finally:
        await conversation.end()


def a_dispatch(batch: int) -> Dispatch:
    return Dispatch(EPOCH, batch, (1,), {"x": Inline(0, DType.INT64, (1, 1))})


PAYLOAD = (np.array([[41]]).tobytes(),)


async def test_a_batch_is_answered_and_noted_as_begun(worker: Conversation) -> None:
    worker.say(a_dispatch(5), payloads=PAYLOAD)
    reply = (await worker.hears(3))[2]
    assert isinstance(reply, Reply)
    assert reply.outputs == {"y": Inline(0, DType.INT64, (1, 1))}
    assert np.frombuffer(worker.frames[0], np.int64).tolist() == [42]
    assert Journal(worker.journal_fd).last() == 5


async def test_a_batch_cancelled_before_it_began_is_skipped(worker: Conversation) -> None:
    worker.say(Cancel(EPOCH, 5), a_dispatch(5), payloads=PAYLOAD)
    answer = (await worker.hears(3))[2]
    assert isinstance(answer, Failure)
    assert "cancelled" in answer.message
    assert Journal(worker.journal_fd).last() is None
    worker.say(a_dispatch(6), payloads=PAYLOAD)
    assert isinstance((await worker.hears(4))[3], Reply)


async def test_batches_that_came_while_one_was_in_hand_are_run_in_their_order(worker: Conversation) -> None:
    worker.say(a_dispatch(5), a_dispatch(6), payloads=PAYLOAD)
    replies = (await worker.hears(4))[2:]
    assert [reply.batch for reply in replies if isinstance(reply, Reply)] == [5, 6]
    assert Journal(worker.journal_fd).last() == 6


async def test_a_batch_that_follows_can_be_cancelled_alone(worker: Conversation) -> None:
    worker.say(Cancel(EPOCH, 6), a_dispatch(5), a_dispatch(6), payloads=PAYLOAD)
    first, second = (await worker.hears(4))[2:]
    assert isinstance(first, Reply)
    assert isinstance(second, Failure)
    assert "cancelled" in second.message


async def test_a_reference_that_cannot_be_believed_fails_the_batch_and_not_the_worker(worker: Conversation) -> None:
    beyond = Descriptor(start=1 << 20, generation=1, offset=0, nbytes=8, dtype=DType.INT64, shape=(1, 1))
    worker.say(Dispatch(EPOCH, 5, (1,), {"x": beyond}))
    answer = (await worker.hears(3))[2]
    assert isinstance(answer, Failure)
    assert "outside an arena" in answer.message
    worker.say(a_dispatch(6), payloads=PAYLOAD)
    assert isinstance((await worker.hears(4))[3], Reply)


async def test_stop_ends_it_with_status_zero(worker: Conversation) -> None:
    worker.say(Stop(EPOCH))
    await eventually(lambda: worker.status == 0)


async def test_a_failed_load_is_told_before_the_end(tmp_path: Path) -> None:
    conversation = Conversation(tmp_path, "worker_loop_absent")
    failed = (await conversation.hears(2))[1]
    assert isinstance(failed, LoadFailed)
    assert "no module 'worker_loop_absent'" in failed.message
    await eventually(lambda: conversation.status == 1)
    await conversation.end()
