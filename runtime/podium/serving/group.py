"""`WorkerGroup`: the worker processes of one member behind one batching queue.

`infer` puts a request into the queue; `_pump` hands batches to idle workers whenever something changed: an arrival, an
answer, a restart, a timer. There is no task per message. Every request ends once, with outputs or a typed error.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Self

from podium.batching.batcher import GatheredInputs, GrantedSlot, gather, lease_out, read_outputs, split
from podium.batching.bisect import halves
from podium.batching.grants import OutputSize
from podium.batching.policy import BatchPolicy, OpenBatch
from podium.batching.queue import BatchQueue, Waiting, layout
from podium.errors import (
    ArenaExhausted,
    BatchTooLarge,
    ContractBreach,
    DeadlineExceeded,
    GroupStopped,
    ModelError,
    PodiumError,
    PoisonedRequest,
    ProtocolError,
    WorkerDied,
)
from podium.ipc.channel import NoCredit, Payloads, PeerGone
from podium.ipc.descriptor import grant_of
from podium.ipc.lease import FRONT_END, Holder
from podium.ipc.protocol import Cancel, Dispatch, Failure, FromWorker, Grant, Need, Reply
from podium.ipc.tensor import Tensor
from podium.serving.pod import PodOptions, PodResources
from podium.serving.supervisor import Events, InstanceState, Supervisor
from podium.telemetry.logging import get_logger
from podium_crds.assignment import Batching, EngineKind, Member

__all__ = ["GroupState", "GroupStats", "PodOptions", "PodResources", "WorkerGroup"]

log = get_logger(__name__)

HANG_GRACE_S = 5.0
"""How far beyond the last deadline in it a batch may run before its worker is killed."""
MAX_HELD_SHARE = 4
"""A model that keeps views of more than one in this many parts of the arena gets a new process."""
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
    gathered_bytes: int
    """Input bytes that were copied to form batches."""
    run_seconds: float
    """Time workers spent in the model."""
    pids: tuple[int, ...]
    restarts: int
    private_bytes: int
    shared_bytes: int


@dataclass(slots=True, eq=False)
class _Running:
    """A batch in a worker's hands."""

    number: int
    requests: list[Waiting]
    rows: int
    inputs: GatheredInputs
    grant: GrantedSlot | None
    hang_timer: asyncio.TimerHandle

    def live(self) -> list[Waiting]:
        """Requests that somebody still waits for."""
        return [waiting for waiting in self.requests if not waiting.future.done()]

    def release(self, held: Collection[int] = ()) -> None:
        """Ends the worker's part in its slots but those whose generation is in `held`, and the watch on it."""
        self.hang_timer.cancel()
        self.inputs.release(held)
        if self.grant is not None:
            self.grant.lease.revoke()


class WorkerGroup:
    """All instances of one member. Used from one event loop."""

    def __init__(self, member: Member, artifact_dir: Path, pod: PodResources) -> None:
        """Use `start`."""
        self.member = member
        self._pod = pod
        self._loop = asyncio.get_running_loop()
        self._queue = BatchQueue(member.batching.max_queue_size)
        self._policy = BatchPolicy(member.batching.max_batch_size, member.batching.max_delay_microseconds / 1e6)
        self._again: deque[list[Waiting]] = deque()
        """Halves of failed batches, which go before the queue."""
        self._warm_up: tuple[Mapping[str, Tensor], ...] = ()
        self._warming: dict[Supervisor, deque[Waiting]] = {}
        """Restarted worker → what it still has to run on before it takes requests."""
        self._held: dict[Supervisor, frozenset[int]] = {}
        """Worker → generations of the slots that its model has kept views of."""
        self._running: dict[Supervisor, _Running] = {}
        self._batch_numbers = count(1)
        self._output_size = OutputSize.of(member.outputs)
        self._wait_timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._idle: asyncio.Event = asyncio.Event()
        self._counts = Counter[str]()
        self._batch_sizes = Counter[int]()
        self._run_seconds = 0.0
        events = Events(ready=self._ready, message=self._hear, died=self._died)
        self._instances = [Supervisor(member, artifact_dir, i, pod, events) for i in range(member.instances)]

    @classmethod
    async def start(cls, member: Member, artifact_dir: Path, *, pod: PodResources) -> Self:
        """Starts `member.instances` workers and waits until all have loaded.

        Raises WorkerLoadError with the first failure; no process is left then.
        """
        group = cls(member, artifact_dir, pod)
        tasks = [asyncio.create_task(instance.start()) for instance in group._instances]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(instance.abort() for instance in group._instances))
            raise
        return group

    async def infer(self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float) -> dict[str, Tensor]:
        """Outputs by name, leased: the caller releases each. Inputs stay the caller's; leases are kept as needed.

        `deadline` is on the event loop's clock. Cancelling the caller takes the request out of the queue, or drops its
        share of the answer. Raises QueueFull, DeadlineExceeded, BatchTooLarge, WorkerDied, PoisonedRequest, ModelError,
        ArenaExhausted, GroupStopped.
        """
        waiting = self._admit(inputs, request_id, deadline)
        timer = self._loop.call_at(deadline, self._expire, waiting)
        try:
            self._pump()
            return await waiting.future
        except BaseException as error:
            self._disown(waiting)
            if isinstance(error, (ModelError, WorkerDied, ArenaExhausted)):
                self._counts["failures"] += 1
            raise
        finally:
            timer.cancel()
            self._queue.discard(waiting)
            for tensor in waiting.inputs.values():
                tensor.release()

    def set_batching(self, batching: Batching) -> None:
        """Takes effect with the next request and the next batch."""
        self._queue.max_size = batching.max_queue_size
        self._policy.max_rows = batching.max_batch_size
        self._policy.max_delay_s = batching.max_delay_microseconds / 1e6
        self.member = self.member.model_copy(update={"batching": batching})
        self._pump()

    def set_warm_up(self, requests: Sequence[Mapping[str, Tensor]]) -> None:
        """Heap tensors that every restarted worker runs on before it takes requests. A failure of one is ignored."""
        assert all(tensor.lease is None for inputs in requests for tensor in inputs.values())
        self._warm_up = tuple(requests)

    def stats(self) -> GroupStats:
        """Numbers for metrics and the report."""
        return GroupStats(
            state=self._state(),
            queue_depth=len(self._queue) + sum(len(batch) for batch in self._again),
            in_flight=sum(len(running.requests) for running in self._running.values()),
            requests=self._counts["requests"],
            failures=self._counts["failures"],
            batches=self._batch_sizes.total(),
            batch_sizes=dict(self._batch_sizes),
            gathered_bytes=self._counts["gathered_bytes"],
            run_seconds=self._run_seconds,
            pids=tuple(instance.pid for instance in self._instances if instance.pid is not None),
            restarts=sum(instance.restarts for instance in self._instances),
            private_bytes=sum(instance.private_bytes for instance in self._instances),
            shared_bytes=max((instance.shared_bytes for instance in self._instances), default=0),
        )

    async def stop(self, grace_s: float) -> None:
        """Refuses new requests, answers what it has for up to `grace_s`, then ends the workers. Idempotent."""
        self._stopping = True
        deadline = self._loop.time() + grace_s
        self._note_idle()
        try:
            async with asyncio.timeout_at(deadline):
                await self._idle.wait()
        except TimeoutError:
            log.warning("group_stopped_with_requests", model=self.member.name, queued=len(self._queue))
        left = max(STOP_TIMEOUT_S, deadline - self._loop.time())
        # A worker that is still in a forward would hear Stop only after it: its time is over.
        graces = {instance: 0.0 if instance in self._running else left for instance in self._instances}
        await asyncio.gather(*(instance.stop(grace) for instance, grace in graces.items()))
        self._abandon(GroupStopped(f"{self.member.name} was stopped before it answered"))

    def _admit(self, inputs: Mapping[str, Tensor], request_id: str, deadline: float) -> Waiting:
        if self._stopping:
            raise GroupStopped(f"{self.member.name} {self.member.version} is stopping")
        now = self._loop.time()
        if deadline <= now:
            raise DeadlineExceeded("the deadline had passed when the request came to the queue")
        rows, bucket = layout(inputs)
        if bucket and rows > self._policy.max_rows:
            raise BatchTooLarge(rows, self._policy.max_rows)
        waiting = Waiting(request_id, dict(inputs), rows, bucket, deadline, now, self._loop.create_future())
        self._queue.put(waiting, self._policy.retry_after_s(self._queue.rows, len(self._instances)))
        for tensor in waiting.inputs.values():
            tensor.retain()
        self._policy.arrivals.observe(now)
        self._counts["requests"] += 1
        self._idle.clear()
        return waiting

    def _expire(self, waiting: Waiting) -> None:
        where = "while it waited" if self._queue.discard(waiting) else "while the model worked"
        self._fail([waiting], DeadlineExceeded(f"the deadline passed {where}"))

    def _disown(self, waiting: Waiting) -> None:
        """The caller is gone: nobody would release outputs that came at the same moment."""
        future = waiting.future
        if future.done() and not future.cancelled() and future.exception() is None:
            for tensor in future.result().values():
                tensor.release()
        future.cancel()
        for instance, running in self._running.items():
            if waiting in running.requests and not running.live():
                try:
                    instance.send(Cancel(instance.epoch, running.number))
                except (PeerGone, NoCredit):
                    return  # then the batch ends by the worker's death or answer all the same

    # ---- out: batches to idle workers

    def _pump(self) -> None:
        """Gives every idle worker a batch, as far as there are any."""
        if self._wait_timer is not None:
            self._wait_timer.cancel()
            self._wait_timer = None
        for instance in self._instances:
            if not instance.ready or instance in self._running:
                continue
            batch = self._next_batch(instance)
            if not batch:
                break
            self._dispatch(instance, batch)
        self._note_idle()

    def _next_batch(self, instance: Supervisor) -> list[Waiting]:
        if warm_up := self._warming.get(instance):
            return [warm_up.popleft()]
        while self._again:
            batch = [waiting for waiting in self._again.popleft() if not waiting.future.done()]
            if batch:
                return batch
        now = self._loop.time()
        head = self._queue.head()
        if head is None:
            return []
        view = OpenBatch(self._queue.rows_like(head), self._queue.oldest_like(head), head.deadline)
        wait_s = 0.0 if head.alone else self._policy.wait_s(view, now)
        if wait_s > 0:
            self._wait_timer = self._loop.call_later(wait_s, self._pump)
            return []
        return self._hopeful(self._queue.take(self._policy.max_rows), now) or self._next_batch(instance)

    def _hopeful(self, batch: list[Waiting], now: float) -> list[Waiting]:
        """The batch without requests that would miss their deadline anyway: those fail before they cost a forward."""
        hopeless = [waiting for waiting in batch if self._policy.is_hopeless(waiting.deadline, now)]
        self._fail(hopeless, DeadlineExceeded("the time left is less than the model takes"))
        return [waiting for waiting in batch if not waiting.future.done()]

    def _dispatch(self, instance: Supervisor, batch: list[Waiting]) -> None:
        rows = sum(waiting.rows for waiting in batch)
        try:
            inputs = gather(batch, self._pod.arena, instance.holder, self._pod.options.inline_bytes)
        except ArenaExhausted as error:
            self._fail(batch, error)
            return
        grant = self._grant(instance.holder, self._output_size.estimate(rows))
        number = next(self._batch_numbers)
        latest = max(waiting.deadline for waiting in batch)
        # A client's short deadline must not get the worker killed: the model's own timeout is the least it may take.
        hung_at = max(latest, self._loop.time() + self.member.timeout_seconds) + HANG_GRACE_S
        timer = self._loop.call_at(hung_at, instance.kill, f"batch {number} hung")
        running = self._running[instance] = _Running(number, batch, rows, inputs, grant, timer)
        per_request = tuple(waiting.rows for waiting in batch) if batch[0].bucket else ()
        message = Dispatch(instance.epoch, number, per_request, inputs.refs, grant.range if grant else None)
        try:
            instance.send(message, inputs.payloads)
        except (PeerGone, NoCredit) as error:
            del self._running[instance]
            running.release()
            self._restore(batch)
            instance.kill(f"it takes no batch: {error}")
            return
        self._batch_sizes[rows] += 1
        self._counts["gathered_bytes"] += inputs.gathered_bytes

    def _grant(self, holder: Holder, nbytes: int) -> GrantedSlot | None:
        """A slot for outputs; None where they are small enough for the message, or the arena has no room."""
        if nbytes <= self._pod.options.inline_bytes:
            return None
        try:
            lease = self._pod.arena.allocate(nbytes, holder).lease
        except ArenaExhausted:
            return None
        return GrantedSlot(lease, grant_of(lease.slot, nbytes))

    # ---- in: what workers say

    def _ready(self, instance: Supervisor) -> None:
        if instance.restarts:
            self._warming[instance] = deque(self._warm_up_request(inputs) for inputs in self._warm_up)
        self._pump()

    def _warm_up_request(self, inputs: Mapping[str, Tensor]) -> Waiting:
        future: asyncio.Future[dict[str, Tensor]] = self._loop.create_future()
        future.add_done_callback(_forget_answer)
        now = self._loop.time()
        return Waiting("warm-up", inputs, layout(inputs)[0], (), now + self.member.timeout_seconds, now, future)

    def _hear(self, instance: Supervisor, message: FromWorker, payloads: Payloads) -> None:
        running = self._running.get(instance)
        if running is None or not isinstance(message, (Need, Reply, Failure)) or message.batch != running.number:
            instance.kill(f"it sent {type(message).__name__} for a batch that it does not have")
            return
        if isinstance(message, Need):
            self._widen(instance, running, message.nbytes)
            return
        del self._running[instance]
        self._keep_held(instance, message.held)
        try:
            if isinstance(message, Reply):
                self._complete(instance, running, message, payloads)
            else:
                self._failed(running, message)
        finally:
            running.release(message.held)
        self._pump()

    def _keep_held(self, instance: Supervisor, held: Collection[int]) -> None:
        """Gives back what the model has let go of since its last answer; what it looks at still stays."""
        before = self._held.get(instance, frozenset())
        now = frozenset(held)
        if now == before:
            return
        if now - before:
            log.warning("model_keeps_input_views", model=self.member.name, slots=len(now), advice="copy what you keep")
        self._pod.arena.ledger.drop_holder(instance.holder, before - now)
        self._held[instance] = now
        kept_bytes = self._pod.arena.ledger.bytes_of(instance.holder, now)
        if kept_bytes > self._pod.arena.size_bytes // MAX_HELD_SHARE:
            instance.kill(f"its model keeps views of {kept_bytes} bytes of its inputs; copy what must outlive infer")

    def _widen(self, instance: Supervisor, running: _Running, nbytes: int) -> None:
        if running.grant is not None:
            running.grant.lease.revoke()
        running.grant = self._grant(instance.holder, nbytes)
        wider = Grant(instance.epoch, running.number, running.grant.range if running.grant else None)
        try:
            instance.send(wider)
        except (PeerGone, NoCredit) as error:
            instance.kill(f"it takes no grant: {error}")

    def _complete(self, instance: Supervisor, running: _Running, reply: Reply, payloads: Payloads) -> None:
        self._policy.service.observe(running.rows, reply.run_s)
        self._run_seconds += reply.run_s
        arena = self._pod.arena
        try:
            if running.grant is not None:
                arena.ledger.seal(running.grant.lease.slot)
            outputs = read_outputs(reply.outputs, payloads, running.grant, arena)
            shares = split(outputs, [waiting.rows for waiting in running.requests])
        except ProtocolError as error:
            self._fail(running.requests, ModelError(f"the worker's answer was refused: {error}"))
            instance.kill(str(error))
            return
        except ModelError as error:
            self._fail(running.requests, error)
            return
        self._output_size.observe(running.rows, sum(t.nbytes for t in outputs.values()), len(outputs))
        for waiting, share in zip(running.requests, shares, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(lease_out(share, arena, FRONT_END))

    def _failed(self, running: _Running, failure: Failure) -> None:
        """The model raised: alone it was this request; in company the bad one is looked for where that is allowed."""
        live = running.live()
        if failure.breach:
            self._fail(live, ContractBreach(failure.message))
        elif len(running.requests) == 1:
            self._fail(live, ModelError(failure.message))
        elif not (self.member.idempotent or self.member.engine.kind is EngineKind.TORCH):
            hint = f"a batch of {len(running.requests)} requests failed; set idempotent to have the bad one found"
            self._fail(live, ModelError(f"{hint}: {failure.message}"))
        elif len(live) == 1:
            self._again.append(live)
        elif live:
            self._again.extend(halves(live))

    def _died(self, instance: Supervisor, how: str, begun: int | None) -> None:
        self._held.pop(instance, None)
        self._warming.pop(instance, None)
        running = self._running.pop(instance, None)
        if running is None:
            return
        running.release()
        live = running.live()
        if begun != running.number:
            self._restore(live)
        else:
            for waiting in live:
                self._bereave(waiting, f"the worker of {self.member.name} {how}")
        self._pump()

    def _bereave(self, waiting: Waiting, what: str) -> None:
        """Decides on a request that was begun by a worker that died."""
        waiting.deaths += 1
        if waiting.deaths >= 2:
            self._fail([waiting], PoisonedRequest(f"{what}, the second one with this request; it is not tried again"))
        elif self.member.idempotent:
            self._restore([waiting])
        else:
            self._fail([waiting], WorkerDied(f"{what} while it worked on the request", started=True))

    def _restore(self, requests: Sequence[Waiting]) -> None:
        for waiting in requests:
            if not waiting.future.done():
                self._queue.restore(waiting)

    def _fail(self, requests: Sequence[Waiting], error: PodiumError) -> None:
        for waiting in requests:
            if not waiting.future.done():
                waiting.future.set_exception(error)

    def _abandon(self, error: PodiumError) -> None:
        self._fail(self._queue.drain(), error)
        for batch in self._again:
            self._fail(batch, error)
        self._again.clear()
        for running in self._running.values():
            running.release()
            self._fail(running.requests, error)
        self._running.clear()
        if self._wait_timer is not None:
            self._wait_timer.cancel()

    def _note_idle(self) -> None:
        if not (len(self._queue) or self._again or self._running):
            self._idle.set()

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


def _forget_answer(future: asyncio.Future[dict[str, Tensor]]) -> None:
    """Releases what nobody asked for; a failed warm-up says nothing of the next request."""
    if not future.cancelled() and future.exception() is None:
        for tensor in future.result().values():
            tensor.release()
