"""The loop of a worker, in a thread of this process, talked to over its real socket."""

import os
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.support.waiting import eventually

from podium.ipc.arena import Arena
from podium.ipc.bootstrap import Bootstrap
from podium.ipc.channel import Broker, PeerGone, WorkerChannel
from podium.ipc.descriptor import Descriptor, Inline
from podium.ipc.journal import Journal, create_journal
from podium.ipc.protocol import Cancel, Dispatch, Failure, FromWorker, Hello, LoadFailed, Ready, Reply, Stop, ToWorker
from podium.ipc.view import ArenaView
from podium.worker.main import Worker
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member
from podium_crds.tensors import DType

PEER, EPOCH, TOKEN = b"loop:7:1", 7, b"secret"
SOURCE = """
    class Model:
        def infer(self, inputs):
            return {"y": inputs["x"] + 1}
"""


class Conversation:
    """A front end for one worker."""

    def __init__(self, folder: Path, module: str) -> None:
        self.arena = Arena.create(1 << 20)
        self.broker = Broker.open(folder / "run")
        self.heard: list[FromWorker] = []
        self.frames: list[bytes] = []
        self.broker.register(PEER, self._hear, lambda _, error: pytest.fail(str(error)))
        self.journal_fd = create_journal()
        self._parent = os.pidfd_open(os.getpid())
        engine = EngineSpec(kind=EngineKind.PYTHON, entrypoint=f"{module}:Model")
        member = Member(name="m", load_hash="h", version="1", artifact=Artifact(), engine=engine)
        bootstrap = Bootstrap(
            endpoint=self.broker.endpoint,
            peer=PEER,
            epoch=EPOCH,
            token=TOKEN,
            parent_pid=os.getpid(),
            arena_bytes=self.arena.size_bytes,
            inline_bytes=1024,
            artifact_dir=str(folder),
            device="cpu",
            member=member.model_dump_json(by_alias=True, exclude_none=True),
        )
        self.status: int | None = None
        self._thread = threading.Thread(target=self._work, args=(bootstrap,))
        self._thread.start()

    def _work(self, bootstrap: Bootstrap) -> None:
        channel = WorkerChannel.connect(bootstrap.endpoint, PEER, self._parent)
        view = ArenaView.attach(os.dup(self.arena.fd), bootstrap.arena_bytes)
        try:
            self.status = Worker(bootstrap, channel, view, Journal(self.journal_fd)).serve()
        finally:
            channel.close()

    def _hear(self, _peer: bytes, message: FromWorker, payloads: object) -> None:
        self.heard.append(message)
        self.frames += payloads  # type: ignore[arg-type]

    def say(self, *messages: ToWorker, payloads: tuple[bytes, ...] = ()) -> None:
        for message in messages:
            self.broker.send(PEER, message, payloads if isinstance(message, Dispatch) else ())

    async def hears(self, count: int) -> list[FromWorker]:
        """Everything heard, once it is that many messages."""
        await eventually(lambda: len(self.heard) >= count, within_s=10)
        return self.heard

    async def end(self) -> None:
        with suppress(PeerGone):  # it has ended, or is about to
            self.say(Stop(EPOCH))
        await eventually(lambda: not self._thread.is_alive(), within_s=10)
        self.broker.close()
        self.arena.close()
        os.close(self.journal_fd)
        os.close(self._parent)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Conversation]:
    """Loaded and ready."""
    module = f"model_of_{tmp_path.name}"  # of its own for each test: this process imports them all
    (tmp_path / f"{module}.py").write_text(textwrap.dedent(SOURCE))
    conversation = Conversation(tmp_path, module)
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
