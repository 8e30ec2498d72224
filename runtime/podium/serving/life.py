"""One life of an instance's process, and where the instance stands between its lives."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from podium.errors import ProtocolError
from podium.ipc.channel import Payloads
from podium.ipc.protocol import FromWorker, Ready
from podium.serving.process import ChildProcess

if TYPE_CHECKING:
    from podium.serving.supervisor import Supervisor

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
