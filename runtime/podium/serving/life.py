"""One life of an instance's process, and where the instance stands between its lives."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from podium.errors import ProtocolError, WorkerLoadError
from podium.ipc.channel import Payloads
from podium.ipc.protocol import FromWorker, LoadFailed, Ready
from podium.serving.process import ChildProcess
from podium_crds.assignment import EngineKind, Member
from podium_crds.reasons import Reason

_Result = TypeVar("_Result")


class InstanceState(StrEnum):
    """Where one worker process stands."""

    LOADING = "Loading"
    READY = "Ready"
    BACKING_OFF = "BackingOff"
    CRASH_LOOP = "CrashLoop"
    STOPPED = "Stopped"


@dataclass(slots=True)
class Life:
    """One process of an instance."""

    peer: bytes
    token: bytes
    process: ChildProcess
    outcome: asyncio.Future[Ready]
    held_back: bool
    """Started as a candidate: behind others, with one intra-op thread."""
    known: bool = False
    """True once it said hello with its token."""


class EarlyWords:
    """What a worker says before its life is known: kept, then told."""

    def __init__(self) -> None:
        self._said: list[tuple[FromWorker | ProtocolError, Payloads]] = []

    def hear(self, _peer: bytes, message: FromWorker, payloads: Payloads) -> None:
        """Keeps a message."""
        self._said.append((message, payloads))

    def intrude(self, _peer: bytes, error: ProtocolError) -> None:
        """Keeps that it sent what is no message."""
        self._said.append((error, ()))

    def tell(
        self,
        peer: bytes,
        hear: Callable[[bytes, FromWorker, Payloads], None],
        intrude: Callable[[bytes, ProtocolError], None],
    ) -> None:
        """Tells all of it, in order."""
        for message, payloads in self._said:
            if isinstance(message, ProtocolError):
                intrude(peer, message)
            else:
                hear(peer, message, payloads)


async def to_its_end(work: Coroutine[object, object, _Result]) -> _Result:
    """Waits for work that a cancellation must not cut short; the cancellation is raised after it."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def as_candidate(member: Member, is_candidate: bool) -> Member:
    """The member with one intra-op thread where its engine can be given more later."""
    if not (is_candidate and member.engine.kind is EngineKind.TORCH):
        return member
    return member.model_copy(update={"engine": member.engine.model_copy(update={"threads": 1})})


def load_reason(failed: LoadFailed) -> Reason:
    """What the report names as the reason of a refused load."""
    return Reason.CONTRACT_MISMATCH if failed.breach else Reason.LOAD_FAILED


def load_error(failure: WorkerLoadError | OSError) -> WorkerLoadError:
    if isinstance(failure, WorkerLoadError):
        return failure
    return WorkerLoadError(Reason.LOAD_FAILED, f"the worker process could not be started: {failure}")
