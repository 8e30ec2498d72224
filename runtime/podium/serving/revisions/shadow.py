"""Copies of answered requests for a candidate, whose answers are compared and thrown away.

A client never waits for a copy: it is taken after the answer is there. What serves loses at most this: AT_ONCE requests
of the candidate under way, at the least urgent priority; WAITING more, with HELD_BYTES of inputs and answers kept; and
while the candidate answers nobody, the lowest share of its device. What does not fit is dropped and counted. What was
in a request is never told: a difference names the output and its size.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field

from podium.errors import (
    ContractBreach,
    DeadlineExceeded,
    GroupStopped,
    InvalidInput,
    Overloaded,
    PodiumError,
    PoisonedRequest,
    RemoteFailed,
    WorkerDied,
)
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.direct import Answered
from podium.serving.revisions.comparing import Difference, difference
from podium.serving.revisions.live import LiveRevision
from podium.serving.workers.life import to_its_end
from podium.telemetry.logging import get_logger
from podium_crds.shadow import Shadow

log = get_logger(__name__)

AT_ONCE = 2
WAITING = 16
HELD_BYTES = 16 << 20
LARGEST_BYTES = 4 << 20
"""Inputs and outputs of one request: above it, it is not copied."""
IN_LOOP_BYTES = 32 << 10
"""Answers above it are compared in a thread: the event loop is for clients."""
LEAST_URGENT = 9
SAYS_NOTHING = (Overloaded, DeadlineExceeded, GroupStopped, RemoteFailed)
"""Errors that are no fault of the candidate: there was no room or no time for a copy."""


@dataclass(slots=True, eq=False)
class _Copy:
    """A request that was answered. Owns one release of each leased tensor."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    nbytes: int

    def release(self) -> None:
        for tensor in (*self.inputs.values(), *self.outputs.values()):
            tensor.release()


@dataclass(slots=True)
class Mirror:
    """Copies from what answers to one candidate. One event loop; `close` when it is over."""

    policy: Shadow
    candidate: LiveRevision
    room_bytes: int
    """Of inputs and answers that may be kept, at most HELD_BYTES of it."""
    clock: Callable[[], float]
    """As of deadlines: monotonic seconds."""
    _credit: int = 0
    """Hundredths of a copy that are due."""
    _held: int = 0
    _waiting: deque[_Copy] = field(default_factory=deque)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _is_closed: bool = False

    def offer(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """A request was answered. Both are borrowed for the call; what is copied is retained."""
        if not self._is_due():
            return
        nbytes = sum([tensor.nbytes for tensor in (*inputs.values(), *outputs.values())])
        room = min(self.room_bytes, HELD_BYTES) - self._held
        if len(self._waiting) >= WAITING or nbytes > min(LARGEST_BYTES, room):
            self.candidate.shadow.dropped()
            return
        copy = _Copy(
            {name: tensor.retain() for name, tensor in inputs.items()},
            {name: tensor.retain() for name, tensor in outputs.items()},
            nbytes,
        )
        self._held += nbytes
        self._waiting.append(copy)
        if len(self._tasks) < AT_ONCE:
            # In a context of its own: a copy is no part of its request's trace.
            task = asyncio.get_running_loop().create_task(self._work(), name="shadow", context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def listening(self, inputs: Mapping[str, Tensor], answered: Answered) -> Answered:
        """The same callback, which offers the request once it has answered it. For inputs on the heap."""

        def both(outputs: Mapping[str, Tensor] | None, error: Exception | None) -> None:
            answered(outputs, error)
            if outputs is not None and not self._is_closed:
                self.offer(inputs, outputs)

        return both

    def pass_over(self) -> None:
        """A request was answered in a way that cannot be compared, such as a stream."""
        if self._is_due():
            self.candidate.shadow.dropped()

    def close(self) -> None:
        """Nothing is copied any more; copies under way are given up. Idempotent."""
        self._is_closed = True
        for task in tuple(self._tasks):
            task.cancel()
        while self._waiting:
            self._waiting.popleft().release()

    def _is_due(self) -> bool:
        if self._is_closed:
            return False
        self._credit += self.policy.percent
        if self._credit < 100:
            return False
        self._credit -= 100
        return True

    async def _work(self) -> None:
        while self._waiting:
            copy = self._waiting.popleft()
            self.candidate.enter()
            try:
                await self._judge(copy)
            finally:
                self.candidate.leave()
                self._held -= copy.nbytes
                copy.release()

    async def _judge(self, copy: _Copy) -> None:
        counts = self.candidate.shadow
        try:
            found = await self._run(copy)
        except SAYS_NOTHING:
            counts.dropped()
        except PodiumError as error:
            self._tell(float("inf"), _fault(error))
            counts.failed()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the copies unseen
            log.error("shadow_broke", error=error, revision=self.candidate.name)
            counts.dropped()
        else:
            if found is not None:
                self._tell(found.factor, found.message)
            counts.compared(differs=found is not None)

    async def _run(self, copy: _Copy) -> Difference | None:
        """Raises PodiumError where the candidate has no answer."""
        candidate = self.candidate
        try:
            candidate.contract.check(copy.inputs)
        except InvalidInput as error:
            raise ContractBreach(str(error)) from error
        deadline = self.clock() + candidate.spec.timeout_seconds
        outputs = await candidate.infer(copy.inputs, "shadow", deadline, LEAST_URGENT)
        try:
            if copy.nbytes <= IN_LOOP_BYTES:
                return difference(copy.outputs, outputs, self.policy)
            # To its end: the thread reads both answers, whoever has given them up.
            return await to_its_end(asyncio.to_thread(difference, copy.outputs, outputs, self.policy))
        finally:
            for tensor in outputs.values():
                tensor.release()

    def _tell(self, factor: float, what: str) -> None:
        """The first of a step in the log, the worst in the report."""
        if self.candidate.shadow.note(factor, what):
            log.warning("shadow_differs", revision=self.candidate.name, difference=what)


def _fault(error: PodiumError) -> str:
    """Why there is no answer, without the words of the model's author: they may quote the request."""
    told = (
        str(error) if isinstance(error, (ContractBreach, WorkerDied, PoisonedRequest)) else "its model raised an error"
    )
    return f"it has no answer: {told}"
