"""Answers batches, one at a time. What else arrives while one is in hand goes to whoever runs the loop."""

import time
from collections import deque
from collections.abc import Callable

import msgspec

from podium.errors import (
    MAX_MESSAGE_CHARS,
    ArenaExhausted,
    ContractBreach,
    ModelError,
    ModelOutOfMemory,
    ProtocolError,
    clipped,
)
from podium.ipc.channel import Payloads
from podium.ipc.descriptor import SlotRange
from podium.ipc.journal import Journal
from podium.ipc.protocol import MAX_IN_HAND, Dispatch, Failure, Grant, Need, Reply, ToWorker
from podium.worker.instance import Instance
from podium.worker.link import Link
from podium.worker.orphans import collect_orphans

GRANT_TIMEOUT_S = 30.0
"""The front end answers Need at once; silence means that it is gone."""

Note = Callable[[ToWorker, Payloads], None]
"""Takes a message that came while a batch was in hand."""


class Batches:
    """Runs the batches of one instance. Used by one thread."""

    def __init__(self, link: Link, journal: Journal, instance: Instance, note: Note) -> None:
        self._link = link
        self._journal = journal
        self._instance = instance
        self._note = note
        self._cancelled: set[int] = set()
        """Batches in hand that nobody waits for."""
        self._following: deque[tuple[Dispatch, Payloads]] = deque()
        """Batches in hand that have not begun, oldest first."""

    @property
    def waiting(self) -> bool:
        """Whether `run_next` has something to do."""
        return bool(self._following)

    def take(self, dispatch: Dispatch, payloads: Payloads) -> None:
        """One more batch in hand. Raises ProtocolError where there are too many."""
        if len(self._following) >= MAX_IN_HAND:
            raise ProtocolError(f"batch {dispatch.batch} came while {MAX_IN_HAND} were in hand")
        self._following.append((dispatch, payloads))

    def cancel(self, batch: int) -> None:
        """Nobody waits for that batch: it is skipped if it has not begun."""
        if len(self._cancelled) >= MAX_IN_HAND:  # what was cancelled too late was answered long ago
            self._cancelled.discard(min(self._cancelled))
        self._cancelled.add(batch)

    def run_next(self) -> None:
        """Runs the model on the oldest batch and sends the answer. Raises Stopped, ProtocolError."""
        self.run(*self._following.popleft())

    def run(self, dispatch: Dispatch, payloads: Payloads) -> None:
        """Runs the model on this batch and sends the answer. Raises Stopped, ProtocolError."""
        self._peek()
        if dispatch.batch in self._cancelled:
            self._cancelled.discard(dispatch.batch)
            self._link.send(Failure(dispatch.epoch, dispatch.batch, "cancelled before it began"))
            return
        self._journal.begin(dispatch.batch)
        answer, frames = self._answer(dispatch, payloads)
        held = self._instance.held.generations()  # here, where no frame and no traceback refers to the inputs any more
        self._link.send(msgspec.structs.replace(answer, held=held) if held else answer, frames)
        collect_orphans()

    def _answer(self, dispatch: Dispatch, payloads: Payloads) -> tuple[Reply | Failure, Payloads]:
        try:
            return self._instance.run(dispatch, payloads, self._ask)
        except (ModelError, ProtocolError, ArenaExhausted) as error:
            message = clipped(str(error), MAX_MESSAGE_CHARS)
            breach, memory = isinstance(error, ContractBreach), isinstance(error, ModelOutOfMemory)
            no_room = isinstance(error, ArenaExhausted)
            return Failure(dispatch.epoch, dispatch.batch, message, breach, out_of_memory=memory, no_room=no_room), ()

    def _ask(self, batch: int, nbytes: int) -> SlotRange | None:
        self._link.send(Need(self._link.epoch, batch, nbytes))
        deadline = time.monotonic() + GRANT_TIMEOUT_S
        while True:
            message, payloads = self._link.receive(max(0.0, deadline - time.monotonic()))
            if isinstance(message, Grant) and message.batch == batch:
                return message.grant
            self._note(message, payloads)

    def _peek(self) -> None:
        """Takes in what arrived behind the dispatch: it may have been cancelled meanwhile."""
        while (received := self._link.poll()) is not None:
            self._note(*received)
