"""`WorkerGroup`: the worker processes of one member behind one batching queue. What the rest of serving calls."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Self

from podium.batching.queue import Outcome, Waiting
from podium.errors import (
    ArenaExhausted,
    BatchTooLarge,
    DeadlineExceeded,
    GroupStopped,
    ModelError,
    StreamingMismatch,
    WorkerDied,
)
from podium.ipc.bootstrap import Role
from podium.ipc.llm_stats import LlmStats
from podium.ipc.protocol import OwnForms
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.direct import Answered, CallCancelled, Deliveries, DirectCall
from podium.serving.dispatch.dispatcher import Dispatcher
from podium.serving.dispatch.outcomes import disown
from podium.serving.dispatch.streamed import FromWorkers, StreamedAnswer
from podium.serving.dispatch.streams import Streams
from podium.serving.dispatch.tally import Copies, Tally
from podium.serving.workers.life import InstanceState
from podium.serving.workers.llm_totals import added_up
from podium.serving.workers.pod import PodOptions, PodResources
from podium.serving.workers.supervisor import Supervisor
from podium.telemetry.counting import StreamCounts
from podium.telemetry.logging import get_logger
from podium_crds.assignment import Batching, Member

__all__ = ["GroupState", "GroupStats", "PodOptions", "PodResources", "WorkerGroup"]

log = get_logger(__name__)

Future = asyncio.Future[dict[str, Tensor]]

MAX_WARM_UP_BYTES = 4 << 20
"""Inputs of one warm-up request that are kept for restarts."""
STOP_TIMEOUT_S = 2.0
"""Least time a stopping worker gets to unload."""


class GroupState(StrEnum):
    """READY: every instance is up. DEGRADED: some are. DOWN: none is. CRASH_LOOP: one keeps dying."""

    READY = "Ready"
    DEGRADED = "Degraded"
    DOWN = "Down"
    CRASH_LOOP = "CrashLoop"
    STOPPED = "Stopped"


@dataclass(frozen=True, slots=True)
class GroupStats:
    """What a group is doing now and has done since its start."""

    state: GroupState
    queue_depth: int
    """Requests that wait for a worker."""
    in_flight: int
    """Requests in a worker's hands."""
    requests: int
    failures: int
    """Requests that ended in an error of the model or the worker."""
    batches: int
    batch_sizes: Mapping[int, int]
    """Rows → number of batches of that size."""
    copies: Copies
    """Tensors that were copied on their way."""
    run_seconds: float
    """Time workers spent in the model."""
    tally: Tally
    """Everything that is counted: the live object, for reading at once."""
    pids: tuple[int, ...]
    instances: Mapping[InstanceState, int]
    """State → how many instances are in it; every state is there."""
    crash_looping: int
    """Instances that keep dying, between two deaths too: a moment of readiness is no end of it."""
    restarts: int
    held_bytes: int
    """Of the arena, that the model looks at beyond the requests they were for."""
    private_bytes: int
    shared_bytes: int
    llm: LlmStats | None
    """Of a language model's engines, all instances and lives together; None for other engines."""


class WorkerGroup:
    """All instances of one member. Used from one event loop."""

    def __init__(self, member: Member, artifact_dir: Path, pod: PodResources, role: Role = Role.MODEL) -> None:
        """Use `start`."""
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._pod = pod
        self._work = Dispatcher(member, pod)
        self._deliveries = Deliveries()
        self._instances: list[Supervisor] = []
        self._streams = Streams(pod, self._instances, lambda: self._work.member)
        events = self._streams.beside(self._work.events)
        try:
            for index in range(member.instances):
                self._instances.append(Supervisor(member, artifact_dir, index, pod, events, role))
        except BaseException:
            for instance in self._instances:
                instance.give_back()
            raise
        self._work.attach(self._instances)

    @classmethod
    async def start(
        cls,
        member: Member,
        artifact_dir: Path,
        *,
        pod: PodResources,
        to_serve: asyncio.Event | None = None,
        role: Role = Role.MODEL,
    ) -> Self:
        """Starts `member.instances` workers and waits until all have loaded.

        Until `to_serve` is set they load as a candidate's, held back and in turns; without one they never do.
        Raises WorkerLoadError with the first failure; no process is left then.
        """
        group = cls(member, artifact_dir, pod, role)
        if to_serve is None:
            to_serve = asyncio.Event()
            to_serve.set()
        tasks = [asyncio.create_task(each.start(to_serve)) for each in group._instances]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(instance.abort() for instance in group._instances))
            group._work.detach()
            raise
        return group

    def promote(self) -> None:
        """Its workers, and those that follow them, run at full priority and with all their threads. Idempotent."""
        for instance in self._instances:
            instance.promote()

    @property
    def member(self) -> Member:
        """What the group runs, as it was tuned last: timeouts and `idempotent` count from the next batch on."""
        return self._work.member

    @member.setter
    def member(self, member: Member) -> None:
        self._work.member = member

    async def infer(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float, priority: int = 0
    ) -> dict[str, Tensor]:
        """Outputs by name, leased: the caller releases each. Inputs stay the caller's; leases are kept as needed.

        `deadline` is on the monotonic clock; `priority` from 1, the most urgent, to 9, 0: the model's own. Cancelling
        the caller takes the request out of the queue, or drops its share of the answer. Raises QueueFull,
        PredictedLate, DeadlineExceeded, BatchTooLarge, InvalidInput, WorkerDied, PoisonedRequest, ModelError,
        ArenaExhausted, GroupStopped.
        """
        self._must_infer()
        future = self._loop.create_future()
        waiting = self._admitted(inputs, request_id, deadline, future, priority)
        return await self._answered(waiting, future, partial(self._work.submit, waiting))

    def begin(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float, answered: Answered, priority: int = 0
    ) -> DirectCall:
        """As `infer`, without a task: `answered` is called once, in a later turn of the loop. What is wrong with the
        request is raised at once."""
        self._must_infer()
        call = DirectCall(answered, self._deliveries, self._finish)
        waiting = call.waiting = self._admitted(inputs, request_id, deadline, call, priority)
        if need := self._work.arena_bytes(waiting):
            waiting.promise = self._pod.arena.promise(need)
        try:
            self._work.submit(waiting)
        except BaseException:
            waiting.end_promise()
            raise
        for tensor in inputs.values():
            tensor.retain()
        return call

    def _finish(self, waiting: Waiting, error: Exception | None) -> None:
        """A call has ended; `error` is None where it was answered."""
        waiting.end_promise()
        if isinstance(error, CallCancelled):
            self._work.tally.cancels += 1
            self._work.withdraw(waiting)
        elif isinstance(error, (ModelError, WorkerDied, ArenaExhausted)):
            self._work.tally.failures += 1
        for tensor in waiting.inputs.values():
            tensor.release()

    async def infer_on_each(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float
    ) -> list[dict[str, Tensor] | BaseException]:
        """The answers of every instance, each asked by itself: a warm-up. Errors take the place of answers."""
        calls = []
        for instance in self._instances:
            future = self._loop.create_future()
            waiting = self._admitted(inputs, request_id, deadline, future)
            calls.append(self._answered(waiting, future, partial(self._work.run_on, instance, waiting)))
        return await asyncio.gather(*calls, return_exceptions=True)

    async def _answered(self, waiting: Waiting, future: Future, begin: Callable[[], None]) -> dict[str, Tensor]:
        if need := self._work.arena_bytes(waiting):
            waiting.promise = self._pod.arena.promise(need)
        leased = [tensor for tensor in waiting.inputs.values() if tensor.lease is not None]
        for tensor in leased:
            tensor.retain()
        try:
            begin()
            return await future
        except (ModelError, WorkerDied, ArenaExhausted):
            self._work.tally.failures += 1
            raise
        except asyncio.CancelledError:
            self._work.tally.cancels += 1
            self._work.withdraw(waiting)
            disown(future)
            raise
        finally:
            waiting.end_promise()
            for tensor in leased:
                tensor.release()

    def _must_infer(self) -> None:
        if not self.infers:
            raise StreamingMismatch(f"{self.member.name} answers in a stream alone: ask with Accept: text/event-stream")

    @property
    def infers(self) -> bool:
        """Whether the model answers at once. Known once the group has started."""
        return self._instances[0].infers

    @property
    def streams(self) -> bool:
        """Whether the model answers in chunks. Known once the group has started."""
        return self._instances[0].streams

    @property
    def forms(self) -> OwnForms:
        """Content types that the model's own codecs read and write. Known once the group has started."""
        return self._instances[0].forms

    @property
    def surely_streams(self) -> bool:
        """As `streams`: nobody else is to be asked."""
        return self.streams

    @property
    def streams_open(self) -> int:
        """Streams that a worker has in hand or that wait for one, those included that nobody reads any more."""
        return self._streams.active

    def stream(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float, counts: StreamCounts
    ) -> StreamedAnswer:
        """An answer in chunks; the reader closes it. Inputs stay the caller's; leases are kept as needed.

        `deadline` is on the event loop's clock and is that of the whole stream. Raises StreamingMismatch, StreamsFull,
        DeadlineExceeded, GroupStopped; see StreamedAnswer.read for the rest.
        """
        if not self.streams:
            raise StreamingMismatch(f"{self.member.name} does not stream: its class has no infer_stream")
        if self._stopping:
            raise GroupStopped(f"{self.member.name} {self.member.version} is stopping")
        return StreamedAnswer(FromWorkers(self._streams, self._streams.open(inputs, request_id, deadline)), counts)

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Within it the group has the lowest weight on its devices: while it warms up, or sees copies alone."""
        self._work.fall_behind(1)
        try:
            yield
        finally:
            self._work.fall_behind(-1)

    def set_batching(self, batching: Batching) -> None:
        """Takes effect with the next request and the next batch."""
        self.member = self.member.model_copy(update={"batching": batching})
        self._work.tune(batching)
        self._work.pump()

    def set_warm_up(self, requests: Sequence[Mapping[str, Tensor]]) -> None:
        """Heap tensors that every restarted worker runs on before it takes requests. A failure of one is ignored.

        Those above MAX_WARM_UP_BYTES are not kept.
        """
        assert all(tensor.lease is None for inputs in requests for tensor in inputs.values())
        sizes = [sum(tensor.nbytes for tensor in inputs.values()) for inputs in requests]
        self._work.warm_up = tuple(
            inputs for inputs, nbytes in zip(requests, sizes, strict=True) if nbytes <= MAX_WARM_UP_BYTES
        )

    def stats(self) -> GroupStats:
        """Numbers for metrics and the report."""
        tally = self._work.tally
        states = [instance.state for instance in self._instances]
        return GroupStats(
            state=self._state(),
            queue_depth=self._work.queued,
            in_flight=sum(len(running.requests) for running in self._work.hands),
            requests=tally.requests,
            failures=tally.failures,
            batches=tally.batch_sizes.total(),
            batch_sizes=dict(tally.batch_sizes),
            copies=replace(tally.copies),
            run_seconds=tally.run_seconds,
            tally=tally,
            pids=tuple(instance.pid for instance in self._instances if instance.pid is not None),
            instances={state: states.count(state) for state in InstanceState},
            crash_looping=sum(instance.is_crash_looping for instance in self._instances),
            restarts=sum(instance.restarts for instance in self._instances),
            held_bytes=self._work.held_inputs.nbytes,
            private_bytes=sum(instance.private_bytes for instance in self._instances),
            shared_bytes=max((instance.shared_bytes for instance in self._instances), default=0),
            llm=added_up([instance.measured for instance in self._instances]),
        )

    async def stop(self, grace_s: float) -> None:
        """Refuses new requests, answers what it has for up to `grace_s`, then ends the workers. Idempotent."""
        self._stopping = True
        deadline = self._loop.time() + grace_s
        self._work.pump()
        try:
            async with asyncio.timeout_at(deadline):
                await self._work.idle.wait()
                await self._streams.idle.wait()
        except TimeoutError:
            log.warning("group_stopped_with_requests", model=self.member.name, queued=self._work.queued)
        left = max(STOP_TIMEOUT_S, deadline - self._loop.time())
        # A worker that is still in a forward would hear Stop only after it: its time is over.
        graces = {instance: 0.0 if instance in self._work.hands else left for instance in self._instances}
        await asyncio.gather(*(instance.stop(grace) for instance, grace in graces.items()))
        stopped = GroupStopped(f"{self.member.name} was stopped before it answered")
        self._work.abandon(stopped)
        self._streams.abandon(stopped)
        self._work.detach()

    def _admitted(
        self, inputs: Mapping[str, Tensor], request_id: str, deadline: float, outcome: Outcome, priority: int = 0
    ) -> Waiting:
        """The request as the queue takes it. Raises GroupStopped, DeadlineExceeded, BatchTooLarge, InvalidInput."""
        if self._stopping:
            raise GroupStopped(f"{self.member.name} {self.member.version} is stopping")
        waiting = self._work.waiting_for(inputs, request_id, deadline, outcome, priority)
        if deadline <= waiting.arrived:
            raise DeadlineExceeded("the deadline had passed when the request came to the queue")
        if waiting.bucket and waiting.rows > self._work.policy.cap.limit:
            raise BatchTooLarge(waiting.rows, self._work.policy.cap.limit)
        return waiting

    def _state(self) -> GroupState:
        if self._stopping:
            return GroupState.STOPPED
        states = [instance.state for instance in self._instances]
        ready = states.count(InstanceState.READY)
        if ready == len(states):
            return GroupState.READY
        if InstanceState.CRASH_LOOP in states:
            return GroupState.CRASH_LOOP
        return GroupState.DEGRADED if ready else GroupState.DOWN
