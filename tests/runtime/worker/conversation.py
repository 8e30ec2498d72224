"""A front end for one worker, whose loop runs in a thread of this process and is talked to over its real socket."""

import os
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from podium.ipc.arena import Arena
from podium.ipc.bootstrap import Bootstrap
from podium.ipc.channel import Broker, PeerGone, WorkerChannel
from podium.ipc.journal import Journal, create_journal
from podium.ipc.protocol import Dispatch, FromWorker, OpenStream, Stop, ToWorker
from podium.ipc.view import ArenaView
from podium.worker.main import serve
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member

PEER, EPOCH, TOKEN = b"loop:7:1", 7, b"secret"


def a_model(folder: Path, source: str) -> str:
    """Writes a module and returns its name: of its own for each test, since this process imports them all."""
    module = f"model_of_{folder.name}"
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    return module


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
            self.status = serve(bootstrap, channel, view, Journal(self.journal_fd))
        finally:
            channel.close()

    def _hear(self, _peer: bytes, message: FromWorker, payloads: object) -> None:
        self.heard.append(message)
        self.frames += payloads  # type: ignore[arg-type]

    def say(self, *messages: ToWorker, payloads: tuple[bytes, ...] = ()) -> None:
        for message in messages:
            self.broker.send(PEER, message, payloads if isinstance(message, (Dispatch, OpenStream)) else ())

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
