"""Entry point of a worker: `python -m podium.worker.main`, or the same function in a child of the fork server.

Order: tie to the front end, connect, load, say Ready, answer batches until Stop. One thread does it all; ZeroMQ's own
I/O thread buffers what arrives meanwhile.
"""

import faulthandler
import gc
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

from podium.engines.base import Engine, LoadError, context_of, user_error
from podium.errors import (
    MAX_MESSAGE_CHARS,
    ContractBreach,
    ModelError,
    ModelOutOfMemory,
    PodiumError,
    ProtocolError,
    clipped,
)
from podium.ipc.bootstrap import ARENA_FD, BOOTSTRAP_FD, JOURNAL_FD, Bootstrap, read_bootstrap
from podium.ipc.channel import Payloads, WorkerChannel
from podium.ipc.descriptor import SlotRange
from podium.ipc.journal import Journal
from podium.ipc.protocol import (
    MAX_IN_HAND,
    Cancel,
    Dispatch,
    Drain,
    Failure,
    Grant,
    Hello,
    LoadFailed,
    Need,
    Ready,
    Reply,
    Stop,
    ToWorker,
)
from podium.ipc.view import ArenaView
from podium.worker.binding import bind_to_parent
from podium.worker.instance import Instance
from podium.worker.limits import beyond, held_to, is_out_of_memory
from podium.worker.orphans import collect_orphans
from podium_crds.assignment import EngineKind, Member

GRANT_TIMEOUT_S = 30.0
"""The front end answers Need at once; silence means that it is gone."""
EXIT_LOAD_FAILED = 1
EXIT_ORPHANED = 3
EXIT_PROTOCOL = 4


class Stopped(Exception):  # noqa: N818
    """Stop arrived, or the front end is gone."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Worker:
    """The loop of one worker process."""

    def __init__(self, bootstrap: Bootstrap, channel: WorkerChannel, view: ArenaView, journal: Journal) -> None:
        self._journal = journal
        self._bootstrap = bootstrap
        self._channel = channel
        self._view = view
        self._cancelled: set[int] = set()
        """Batches in hand that nobody waits for."""
        self._following: deque[tuple[Dispatch, Payloads]] = deque()
        """Batches that came while another was in hand, oldest first."""

    def serve(self) -> int:
        """Loads, answers, unloads. Returns the exit status."""
        epoch = self._bootstrap.epoch
        self._channel.send(Hello(epoch, self._bootstrap.token, os.getpid()))
        try:
            instance, load_s = self._load()
        except BaseException as error:  # noqa: BLE001 - SystemExit in the user's load is a failed load, too
            self._channel.send(LoadFailed(epoch, load_failure(error, self._bootstrap.load_bytes)))
            return exit_status(error)
        self._channel.send(Ready(epoch, load_s))
        try:
            while True:
                self._step(instance)
        except Stopped as stopped:
            instance.engine.unload()
            return stopped.status

    def _load(self) -> tuple[Instance, float]:
        started = time.perf_counter()
        member = Member.model_validate_json(self._bootstrap.member)
        artifact_dir = Path(self._bootstrap.artifact_dir)
        with held_to(self._bootstrap.load_bytes, artifact_dir):
            engine = build_engine(member, artifact_dir, self._bootstrap.device)
            engine.load()
            engine.warm_up()
        gc.freeze()  # what a loaded model consists of is walked by no later collection
        instance = Instance(member, engine, self._view, self._bootstrap.inline_bytes)
        return instance, time.perf_counter() - started

    def _step(self, instance: Instance) -> None:
        message, payloads = self._following.popleft() if self._following else self._receive(None)
        if isinstance(message, Dispatch):
            self._run(instance, message, payloads)
        else:
            self._note(message, payloads)

    def _run(self, instance: Instance, dispatch: Dispatch, payloads: Payloads) -> None:
        self._peek()
        if dispatch.batch in self._cancelled:
            self._cancelled.discard(dispatch.batch)
            self._channel.send(Failure(dispatch.epoch, dispatch.batch, "cancelled before it began"))
            return
        self._journal.begin(dispatch.batch)
        answer, frames = self._answer(instance, dispatch, payloads)
        held = instance.held.generations()  # here, where no frame and no traceback refers to the inputs any more
        self._channel.send(msgspec.structs.replace(answer, held=held) if held else answer, frames)
        collect_orphans()

    def _answer(self, instance: Instance, dispatch: Dispatch, payloads: Payloads) -> tuple[Reply | Failure, Payloads]:
        try:
            return instance.run(dispatch, payloads, self._ask)
        except (ModelError, ProtocolError) as error:
            message = clipped(str(error), MAX_MESSAGE_CHARS)
            breach, memory = isinstance(error, ContractBreach), isinstance(error, ModelOutOfMemory)
            return Failure(dispatch.epoch, dispatch.batch, message, breach, out_of_memory=memory), ()

    def _ask(self, batch: int, nbytes: int) -> SlotRange | None:
        self._channel.send(Need(self._bootstrap.epoch, batch, nbytes))
        deadline = time.monotonic() + GRANT_TIMEOUT_S
        while True:
            message, payloads = self._receive(max(0.0, deadline - time.monotonic()))
            if isinstance(message, Grant) and message.batch == batch:
                return message.grant
            self._note(message, payloads)

    def _receive(self, timeout_s: float | None) -> tuple[ToWorker, Payloads]:
        received = self._channel.receive(timeout_s)
        if received is None:
            raise Stopped(EXIT_ORPHANED)
        if received[0].epoch != self._bootstrap.epoch:
            raise ProtocolError(f"a message of epoch {received[0].epoch} for epoch {self._bootstrap.epoch}")
        return received

    def _peek(self) -> None:
        """Takes in what arrived behind the dispatch: it may have been cancelled meanwhile."""
        while (received := self._channel.receive(0)) is not None:
            self._note(*received)

    def _note(self, message: ToWorker, payloads: Payloads) -> None:
        if isinstance(message, Stop):
            raise Stopped(0)
        if isinstance(message, Cancel):
            if len(self._cancelled) >= MAX_IN_HAND:  # what was cancelled too late was answered long ago
                self._cancelled.discard(min(self._cancelled))
            self._cancelled.add(message.batch)
        elif isinstance(message, Dispatch) and len(self._following) < MAX_IN_HAND:
            self._following.append((message, payloads))
        elif not isinstance(message, (Drain, Grant)):
            raise ProtocolError(f"{type(message).__name__} while a batch is in hand")


def build_engine(member: Member, artifact_dir: Path, device: str) -> Engine:
    """The backend of that kind. Its libraries are imported here, unless the fork server had them."""
    context = context_of(member, artifact_dir, device)
    if member.engine.kind is EngineKind.TORCH:
        from podium.engines.torch_engine import TorchEngine

        return TorchEngine(member.engine, context, member.outputs)
    if member.engine.kind is EngineKind.VLLM:
        raise LoadError("this release of the runtime has no engine VLLM; use an image that has it")
    from podium.engines.python_engine import PythonEngine

    return PythonEngine(member.engine.entrypoint, context)


def load_failure(error: BaseException, load_bytes: int | None = None) -> str:
    """What the report says about a failed load. `load_bytes`: what it was held to."""
    if load_bytes is not None and is_out_of_memory(error):
        return clipped(f"{user_error(error)}\n{beyond(load_bytes)}")
    if isinstance(error, SystemExit):
        return f"the model ended its process while loading: sys.exit({error.code!r})"
    if isinstance(error, PodiumError):
        return clipped(str(error))
    return clipped(f"loading raised: {user_error(error)}")


def exit_status(error: BaseException) -> int:
    """The process's status after a failed load: the model's own where it asked for one."""
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code != 0:
        return error.code & 0xFF
    return EXIT_LOAD_FAILED


def run_worker(arena_fd: int, bootstrap_fd: int, journal_fd: int) -> int:
    """A worker's whole life in this process. Takes over the descriptors; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    bootstrap = read_bootstrap(bootstrap_fd)
    parent_fd = bind_to_parent(bootstrap.parent_pid)
    view = ArenaView.attach(arena_fd, bootstrap.arena_bytes)
    channel = WorkerChannel.connect(bootstrap.endpoint, bootstrap.peer, parent_fd)
    try:
        return Worker(bootstrap, channel, view, Journal(journal_fd)).serve()
    except ProtocolError as error:
        print(f"podium worker: {error}", file=sys.stderr)
        return EXIT_PROTOCOL
    finally:
        channel.close()


def main() -> None:
    """Runs the worker and ends the process without waiting for threads that the model left behind."""
    status = run_worker(ARENA_FD, BOOTSTRAP_FD, JOURNAL_FD)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
