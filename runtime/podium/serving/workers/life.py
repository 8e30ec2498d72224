"""One life of an instance's process, and where the instance stands between its lives."""

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from podium.errors import ProtocolError, WorkerLoadError
from podium.ipc.channel import Payloads
from podium.ipc.protocol import PROTOCOL_VERSION, FromWorker, Hello, LoadFailed, Ready
from podium.serving.workers.loading import load_reason
from podium.serving.workers.priority import Priority
from podium.serving.workers.process import ChildProcess

if TYPE_CHECKING:
    from podium.serving.workers.supervisor import Supervisor

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
    priority: Priority
    outcome: asyncio.Future[Ready]
    held_back: bool
    """Started as a candidate: behind others, with one intra-op thread."""
    known: bool = False
    """True once it said hello with its token."""

    def doubt(self, message: FromWorker) -> str | None:
        """Takes in what the worker says of itself; what is wrong with it, if anything is."""
        if isinstance(message, Hello):
            self.known = hmac.compare_digest(message.token, self.token) and message.protocol == PROTOCOL_VERSION
            return None if self.known else "it said hello with a wrong token or protocol version"
        if not self.known:
            return f"it sent {type(message).__name__} before Hello"
        if isinstance(message, Ready) and not self.outcome.done():
            self.outcome.set_result(message)
        elif isinstance(message, LoadFailed) and not self.outcome.done():
            self.outcome.set_exception(WorkerLoadError(load_reason(message), message.message))
        return None


@dataclass(frozen=True, slots=True)
class Events:
    """What the owner of a supervisor wants to hear. Called on the event loop, must not block."""

    ready: Callable[["Supervisor"], None]
    message: Callable[["Supervisor", FromWorker, Payloads], None]
    died: Callable[["Supervisor", str, int | None], None]
    """(who, how it ended in words, the batch it had begun last). Called once per life that was ready."""


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
