"""`Dispatcher`: hands batches to idle workers and sees every request through to its one end.

Driven by events alone: an arrival, an answer, a restart, a death, a timer each lead to `pump`. There is no task per
message. Owned by a WorkerGroup, which admits requests and hears none of the messages.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from podium.batching.batcher import GatheredInputs, GrantedSlot, gather, lease_out, read_outputs, split
from podium.batching.bisect import halves
from podium.batching.grants import OutputSize
from podium.batching.policy import BatchPolicy, OpenBatch
from podium.batching.queue import BatchQueue, Waiting, layout
from podium.errors import (
    ArenaExhausted,
    ContractBreach,
    DeadlineExceeded,
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
from podium.serving.pod import PodResources
from podium.serving.supervisor import Events, Supervisor
from podium.telemetry.logging import get_logger
from podium_crds.assignment import EngineKind, Member

log = get_logger(__name__)

HANG_GRACE_S = 5.0
"""How far beyond the last deadline in it a batch may run before its worker is killed."""
MAX_HELD_SHARE = 4
"""A model that keeps views of more than one in this many parts of the arena gets a new process."""


@dataclass(slots=True, eq=False)
class RunningBatch:
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
        if self.grant is not None and self.grant.lease.slot.generation not in held:
            self.grant.lease.revoke()


@dataclass(slots=True)
class Copies:
    """Tensors that were copied on their way, and their bytes: to form batches, and to store what a model returned."""

    gathers: int = 0
    gathered_bytes: int = 0
    stores: int = 0
    stored_bytes: int = 0

    def gathered(self, tensors: int, nbytes: int) -> None:
        """Inputs of one batch were copied."""
        self.gathers += tensors
        self.gathered_bytes += nbytes

    def stored(self, tensors: int, nbytes: int) -> None:
        """Outputs of one batch were copied."""
        self.stores += tensors
        self.stored_bytes += nbytes


@dataclass(slots=True)
class Tally:
    """What was done since the group's start. Plain numbers, folded into metrics by who reads them."""

    requests: int = 0
    failures: int = 0
    """Requests that ended in an error of the model or the worker."""
    copies: Copies = field(default_factory=Copies)
    run_seconds: float = 0.0
    """Time workers spent in the model."""
    batch_sizes: Counter[int] = field(default_factory=Counter)
    """Rows → number of batches of that size."""


class Dispatcher:
    """Queue, workers and what is between them, for one member. Used from one event loop."""

    def __init__(self, member: Member, pod: PodResources) -> None:
        """`instances` is filled by the owner, whose supervisors report to `events`."""
        batching = member.batching
        self.member = member
        self.instances: list[Supervisor] = []
        self.queue = BatchQueue(batching.max_queue_size)
        self.policy = BatchPolicy(batching.max_batch_size, batching.max_delay_microseconds / 1e6)
        self.running: dict[Supervisor, RunningBatch] = {}
        self.warm_up: tuple[Mapping[str, Tensor], ...] = ()
        """What every restarted worker runs on first. Heap tensors."""
        self.idle = asyncio.Event()
        """Set when no request is queued or running."""
        self.tally = Tally()
        self.events = Events(ready=self._ready, message=self._hear, died=self._died)
        self._pod = pod
        self._loop = asyncio.get_running_loop()
        self._again: deque[list[Waiting]] = deque()
        """Halves of failed batches, which go before the queue."""
        self._warming: dict[Supervisor, deque[Waiting]] = {}
        """Restarted worker → what it still has to run on before it takes requests."""
        self._held: dict[Supervisor, frozenset[int]] = {}
        """Worker → generations of the slots that its model has kept views of."""
        self._batch_numbers = count(1)
        self._output_size = OutputSize.of(member.outputs)
        self._wait_timer: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        """Requests that wait for a worker."""
        return len(self.queue) + sum(len(batch) for batch in self._again)

    def submit(self, waiting: Waiting) -> None:
        """Takes a new request. Raises QueueFull."""
        self.queue.put(waiting, self.policy.retry_after_s(self.queue.rows, len(self.instances)))
        self.policy.arrivals.observe(waiting.arrived)
        self.tally.requests += 1
        self.idle.clear()
        self.pump()

    def arena_bytes(self, waiting: Waiting) -> int:
        """What the request will take of the arena: heap inputs, which are gathered there, and outputs."""
        inputs = sum(tensor.nbytes for tensor in waiting.inputs.values() if tensor.lease is None)
        outputs = self._output_size.expected(waiting.rows)
        small = self._pod.options.inline_bytes
        return (inputs if inputs > small else 0) + (outputs if outputs > small else 0)

    def withdraw(self, waiting: Waiting) -> None:
        """Nobody waits for this request any more: out of the queue with it, or its batch is told to be skipped."""
        self.queue.discard(waiting)
        for instance, running in self.running.items():
            if waiting in running.requests and not running.live():
                with suppress(PeerGone, NoCredit):  # then the worker's death or answer ends the batch all the same
                    instance.send(Cancel(instance.epoch, running.number))
        self._note_idle()

    def pump(self) -> None:
        """Gives every idle worker a batch, as far as there are any."""
        if self._wait_timer is not None:
            self._wait_timer.cancel()
            self._wait_timer = None
        for instance in self.instances:
            while instance.ready and instance not in self.running and (batch := self._next_batch(instance)):
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
        waits: list[float] = []
        heads = deque(self.queue.heads())
        while heads:
            if (wait_s := self._wait_s(heads[0], now)) > 0:
                waits.append(wait_s)
                heads.popleft()
            elif batch := self._hopeful(self.queue.take(heads[0], self.policy.max_rows), now):
                return batch
            else:
                heads = deque(self.queue.heads())  # all of them were shed: what is behind them moves up
                waits.clear()
        if waits and self._wait_timer is None:
            self._wait_timer = self._loop.call_later(min(waits), self.pump)
        return []

    def _wait_s(self, head: Waiting, now: float) -> float:
        """How long the policy would have this line wait for company, though a worker is idle."""
        if head.alone or not self.policy.max_delay_s:
            return 0.0
        open_batch = OpenBatch(self.queue.rows_like(head), self.queue.oldest_like(head), head.deadline)
        return self.policy.wait_s(open_batch, now)

    def _hopeful(self, batch: list[Waiting], now: float) -> list[Waiting]:
        """The batch without requests that would miss their deadline anyway: those fail before they cost a forward."""
        hopeless = [waiting for waiting in batch if self.policy.is_hopeless(waiting.deadline, now)]
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
        for waiting in batch:
            waiting.end_promise()
        number = next(self._batch_numbers)
        latest = max(waiting.deadline for waiting in batch)
        # A client's short deadline must not get the worker killed: the model's own timeout is the least it may take.
        hung_at = max(latest, self._loop.time() + self.member.timeout_seconds) + HANG_GRACE_S
        timer = self._loop.call_at(hung_at, instance.kill, f"batch {number} hung")
        running = self.running[instance] = RunningBatch(number, batch, rows, inputs, grant, timer)
        per_request = tuple(waiting.rows for waiting in batch) if batch[0].bucket else ()
        message = Dispatch(instance.epoch, number, per_request, inputs.refs, grant.range if grant else None)
        try:
            instance.send(message, inputs.payloads)
        except (PeerGone, NoCredit) as error:
            del self.running[instance]
            running.release()
            self._restore(batch)
            instance.kill(f"it takes no batch: {error}")
            return
        self.tally.batch_sizes[rows] += 1
        self.tally.copies.gathered(inputs.gathers, inputs.gathered_bytes)

    def _grant(self, holder: Holder, nbytes: int) -> GrantedSlot | None:
        """A slot for outputs; None where they are small enough for the message, or the arena has no room."""
        if nbytes <= self._pod.options.inline_bytes:
            return None
        try:
            lease = self._pod.arena.allocate(nbytes, holder).lease
        except ArenaExhausted:
            return None
        return GrantedSlot(lease, grant_of(lease.slot, nbytes))

    def abandon(self, error: PodiumError) -> None:
        """Fails everything that is queued or running. The workers have ended before."""
        self._fail(self.queue.drain(), error)
        for batch in self._again:
            self._fail(batch, error)
        self._again.clear()
        for running in self.running.values():
            running.release()
            self._fail(running.requests, error)
        self.running.clear()
        if self._wait_timer is not None:
            self._wait_timer.cancel()

    def _ready(self, instance: Supervisor) -> None:
        if instance.restarts:
            self._warming[instance] = deque(self._warm_up_request(inputs) for inputs in self.warm_up)
        self.pump()

    def _warm_up_request(self, inputs: Mapping[str, Tensor]) -> Waiting:
        future: asyncio.Future[dict[str, Tensor]] = self._loop.create_future()
        future.add_done_callback(_forget_answer)
        now = self._loop.time()
        return Waiting("warm-up", inputs, layout(inputs)[0], (), now + self.member.timeout_seconds, now, future)

    def _hear(self, instance: Supervisor, message: FromWorker, payloads: Payloads) -> None:
        running = self.running.get(instance)
        if running is None or not isinstance(message, (Need, Reply, Failure)) or message.batch != running.number:
            instance.kill(f"it sent {type(message).__name__} for a batch that it does not have")
            return
        if isinstance(message, Need):
            self._widen(instance, running, message.nbytes)
            return
        del self.running[instance]
        self._keep_held(instance, message.held)
        try:
            if isinstance(message, Reply):
                self._complete(instance, running, message, payloads)
            else:
                self._failed(running, message)
        finally:
            running.release(message.held)
        self.pump()

    def _keep_held(self, instance: Supervisor, held: Collection[int]) -> None:
        """Gives back what the model has let go of since its last answer; what it looks at still stays."""
        before = self._held.get(instance, frozenset())
        now = frozenset(held)
        if now == before:
            return
        if now - before:
            log.warning("model_keeps_views", model=self.member.name, slots=len(now), advice="copy what you keep")
        self._pod.arena.ledger.drop_holder(instance.holder, before - now)
        self._held[instance] = now
        kept_bytes = self._pod.arena.ledger.bytes_of(instance.holder, now)
        if kept_bytes > self._pod.arena.size_bytes // MAX_HELD_SHARE:
            instance.kill(f"its model keeps views of {kept_bytes} bytes of its inputs; copy what must outlive infer")

    def _widen(self, instance: Supervisor, running: RunningBatch, nbytes: int) -> None:
        if running.grant is not None:
            running.grant.lease.revoke()
        running.grant = self._grant(instance.holder, nbytes)
        wider = Grant(instance.epoch, running.number, running.grant.range if running.grant else None)
        try:
            instance.send(wider)
        except (PeerGone, NoCredit) as error:
            instance.kill(f"it takes no grant: {error}")

    def _complete(self, instance: Supervisor, running: RunningBatch, reply: Reply, payloads: Payloads) -> None:
        self.policy.service.observe(running.rows, reply.run_s)
        self.tally.copies.stored(reply.stores, reply.stored_bytes)
        self.tally.run_seconds += reply.run_s
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

    def _failed(self, running: RunningBatch, failure: Failure) -> None:
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
        running = self.running.pop(instance, None)
        if running is None:
            return
        running.release()
        live = running.live()
        if begun != running.number:
            self._restore(live)
        else:
            for waiting in live:
                self._bereave(waiting, f"the worker of {self.member.name} {how}")
        self.pump()

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
                self.queue.restore(waiting)

    def _fail(self, requests: Sequence[Waiting], error: PodiumError) -> None:
        for waiting in requests:
            if not waiting.future.done():
                waiting.future.set_exception(error)

    def _note_idle(self) -> None:
        if not (len(self.queue) or self._again or self.running):
            self.idle.set()


def _forget_answer(future: asyncio.Future[dict[str, Tensor]]) -> None:
    """Releases what nobody asked for; a failed warm-up says nothing of the next request."""
    if not future.cancelled() and future.exception() is None:
        for tensor in future.result().values():
            tensor.release()
