"""`Dispatcher`: hands batches to workers and sees every request through to its one end.

Driven by events alone: an arrival, an answer, a restart, a death, a timer each lead to `pump`. There is no task and no
timer per message. Owned by a WorkerGroup, which admits requests and hears none of the messages. Which batch goes next
is podium.batching's to say, whose turn it is the device's; how requests end is in podium.serving.dispatch.outcomes.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from podium.batching.backlog import Backlog
from podium.batching.device import LOWEST_SHARE, Run
from podium.batching.grants import OutputSize
from podium.batching.joining import Joining
from podium.batching.layouts import Layouts
from podium.batching.policy import BatchPolicy
from podium.batching.queue import BatchQueue, Outcome, Waiting
from podium.batching.sizing import SizeCap
from podium.errors import ArenaExhausted, DeadlineExceeded, PodiumError, PredictedLate, QueueFull, WorkerDied
from podium.ipc.channel import NoCredit, Payloads, PeerGone
from podium.ipc.protocol import Cancel, Failure, FromWorker, Need, Reply
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.ahead import HandAhead
from podium.serving.dispatch.answers import Answers
from podium.serving.dispatch.expiry import DeadlineWatch
from podium.serving.dispatch.hands import Hands, RunningBatch
from podium.serving.dispatch.hanging import Hangs
from podium.serving.dispatch.held_inputs import HeldInputs
from podium.serving.dispatch.lane import Lane
from podium.serving.dispatch.outcomes import Outcomes, disown
from podium.serving.dispatch.sending import Sender
from podium.serving.dispatch.tally import Closed, Shed, Tally, why_closed
from podium.serving.workers.life import Events
from podium.serving.workers.pod import PodResources
from podium.serving.workers.run_devices import units_of
from podium.serving.workers.supervisor import Supervisor
from podium.serving.workers.timer import PreciseTimer
from podium.telemetry.timeline import CURRENT
from podium_crds.assignment import Batching, Member

SAME_TURN_S = 100e-6
"""Requests that follow each other faster than this are read in one turn of the event loop: its end is worth waiting."""


class Dispatcher:
    """Backlog, workers and what is between them, for one member. Used from one event loop."""

    def __init__(self, member: Member, pod: PodResources, clock: Callable[[], float] = time.monotonic) -> None:
        """`attach` the supervisors, which report to `events`. `clock`: uvloop's own is coarse."""
        self.member = member
        self.clock = clock
        self.policy = BatchPolicy(SizeCap(member.batching.max_batch_size))
        self.backlog = Backlog(BatchQueue(member.batching.max_queue_size), self.policy, self._drop, pod.room_bytes)
        self.layouts = Layouts(member.batching)
        self.hands = Hands()
        self.outcomes = Outcomes(self.backlog, lambda: self.member)
        self.warm_up: tuple[Mapping[str, Tensor], ...] = ()
        """What every restarted worker runs on first. Heap tensors."""
        self.idle = asyncio.Event()
        """Set when no request is queued or running."""
        self.tally = Tally()
        self.events = Events(ready=self._ready, message=self._hear, died=self._died)
        self._pod = pod
        self._loop = asyncio.get_running_loop()
        self._lanes: list[Lane] = []
        self._instances: list[Supervisor] = []
        self._pinned: dict[Supervisor, deque[Waiting]] = {}
        """Worker → warm-up requests that it alone shall run, before all others."""
        self.held_inputs = HeldInputs(pod.arena)
        self._output_size = OutputSize.of(member.outputs)
        self._ahead = HandAhead(self.backlog, self.hands)
        self._answers = Answers(pod.arena, self.outcomes, self.policy, self._output_size, self.tally, clock)
        self._sender = Sender(pod, self._output_size, Joining(member.batching))
        self._alarm = PreciseTimer(self.pump)
        self._pump_is_due = False
        self._behind = 0
        self._watch = DeadlineWatch(clock, self._expire, self._deadlines)
        self._hangs = Hangs(self.hands, lambda: self.member, clock)
        self.tune(member.batching)

    @property
    def queued(self) -> int:
        """Requests that wait for a worker."""
        return self.backlog.waiting

    def attach(self, instances: Sequence[Supervisor]) -> None:
        """The workers, each in the lane of its device."""
        self._instances = list(instances)
        lanes: dict[str, Lane] = {}
        for instance in instances:
            lane = lanes.get(instance.device)
            if lane is None:
                units = units_of(instance.device, self.member.engine.threads)
                device = self._pod.run_devices.of(instance.device)
                lane = lanes[instance.device] = Lane(self, device, units, self.member.batching.device_share, self.hands)
            lane.instances.append(instance)
        self._lanes = list(lanes.values())

    def detach(self) -> None:
        """Gives up the devices' credits and the timers. Requests that are left must have been abandoned."""
        for lane in self._lanes:
            lane.leave()
        self._lanes = []
        self._alarm.close()
        self._watch.close()
        self._hangs.close()

    def tune(self, batching: Batching) -> None:
        """Takes effect with the next request and the next batch."""
        target = batching.target_latency_milliseconds
        self.policy.cap.configure(batching.max_batch_size, None if target is None else target / 1000)
        self.policy.max_delay_s = batching.max_delay_microseconds / 1e6
        self.backlog.queue.max_size = batching.max_queue_size
        self.backlog.max_elements = batching.max_batch_elements
        self.backlog.is_padded = bool(batching.padding)
        self.layouts = Layouts(batching)
        self._sender.joining = Joining(batching)
        self.tally.lengths.tune(batching)
        self._weigh()

    def fall_behind(self, holders: int) -> None:
        """So many more hold it at the lowest weight on its devices; negative: fewer."""
        self._behind += holders
        self._weigh()

    def _weigh(self) -> None:
        for lane in self._lanes:
            lane.set_weight(LOWEST_SHARE if self._behind else self.member.batching.device_share)

    def _has_free_worker(self) -> bool:
        for lane in self._lanes:  # noqa: SIM110 - no generator for each request
            if lane.has_free_worker():
                return True
        return False

    def submit(self, waiting: Waiting) -> None:
        """Takes a new request. Raises QueueFull, PredictedLate, DeadlineExceeded: microseconds after it came."""
        free = self._has_free_worker()
        if (
            not free
            and self.hands
            and not self.backlog.is_unhurried(waiting)
            and (refusal := self._refusal(waiting)) is not None
        ):
            self.tally.shed[Shed.HOPELESS if isinstance(refusal, DeadlineExceeded) else Shed.PREDICTED_LATE] += 1
            raise refusal
        try:
            self.backlog.queue.put(waiting, self._retry_after_s)
        except QueueFull:
            self.tally.shed[Shed.QUEUE_FULL] += 1
            raise
        gap = self.policy.arrivals.expected_s(waiting.arrived)
        self.policy.arrivals.observe(waiting.arrived)
        if self.policy.max_delay_s:
            self.policy.returns.came(waiting.arrived, self.policy.max_delay_s)
        self.tally.requests += 1
        self.idle.clear()
        self._watch.add(waiting.deadline)
        if free and (gap is None or gap > SAME_TURN_S):
            self.pump()
        elif not self._pump_is_due:
            self._pump_is_due = True
            self._loop.call_soon(self.pump)

    def run_on(self, instance: Supervisor, waiting: Waiting) -> None:
        """A request that this worker alone shall run, before all others: a warm-up."""
        self._pinned.setdefault(instance, deque()).append(waiting)
        self.idle.clear()
        self._watch.add(waiting.deadline)
        self.pump()

    def arena_bytes(self, waiting: Waiting) -> int:
        """What the request will take of the arena: heap inputs, which are gathered there, and outputs."""
        small = self._pod.options.inline_bytes
        if waiting.nbytes <= small:
            return 0
        inputs = sum([tensor.nbytes for tensor in waiting.inputs.values() if tensor.lease is None])
        outputs = self._output_size.expected(waiting.rows)
        return (inputs if inputs > small else 0) + (outputs if outputs > small else 0)

    def withdraw(self, waiting: Waiting) -> None:
        """Nobody waits for this request any more: out of the queue with it, or its batch is told to be skipped."""
        if not self.backlog.discard(waiting):
            for instance, running in self.hands.items():
                if waiting in running.requests and not running.live():
                    with suppress(PeerGone, NoCredit):  # then the worker's death or answer ends the batch all the same
                        instance.send(Cancel(instance.epoch, running.number))
        self._note_idle()

    def abandon(self, error: PodiumError) -> None:
        """Fails everything that is left: no worker will ever answer it."""
        self.outcomes.fail(self.backlog.drain(), error)
        for pinned in self._pinned.values():
            self.outcomes.fail(list(pinned), error)
        self._pinned.clear()
        for instance in self._instances:
            for running in self.hands.pop_all(instance):
                running.release()
                self.outcomes.fail(running.live(), error)

    def pump(self) -> None:
        """Gives every free worker a batch, as far as there are any and its device has a credit."""
        self._pump_is_due = False
        for lane in self._lanes:
            lane.device.deal()
        if self.backlog.waiting:
            now = self.clock()
            self._hand_ahead(now)
            self._set_alarm(now)
        self.backlog.forget_bound()
        self._note_idle()

    @property
    def has_work(self) -> bool:
        """See podium.serving.dispatch.lane.Work."""
        return bool(self.backlog.waiting or self._pinned)

    def next_run_s(self, instance: Supervisor, now: float) -> float | None:
        """See podium.serving.dispatch.lane.Work."""
        if self._pinned and self._pinned.get(instance):
            return 0.0
        return self.backlog.next_run_s(now)

    def start(self, instance: Supervisor, hold: Callable[[float], Run], now: float) -> Run | None:
        """See podium.serving.dispatch.lane.Work."""
        pinned = self._pinned.get(instance)
        if pinned:
            batch = [pinned.popleft()]
            if not pinned:
                del self._pinned[instance]
            why = Closed.WARM_UP
        else:
            is_retry = self.backlog.has_retries
            batch = self.backlog.take(now, workers=len(self._instances), is_idle=not self.hands)
            why = Closed.RETRY if is_retry else why_closed(batch, self.policy, now)
        if not batch:
            return None
        running = self._dispatch(instance, batch, now, why)
        if running is None:
            return None
        running.is_warm_up = pinned is not None
        running.run = hold(running.expected_s)
        self._hangs.watch(running)
        return running.run

    def _hand_ahead(self, now: float) -> None:
        for instance in self._ahead.workers(self._lanes, now):
            begins_s = self.hands.begins_s(instance, now)
            batch = self.backlog.take(now, workers=len(self._instances), is_idle=False, begins_s=begins_s)
            running = self._dispatch(instance, batch, now, Closed.AHEAD) if batch else None
            if running is not None:
                running.was_ahead = True

    def _set_alarm(self, now: float) -> None:
        """Rings when a wait for company ends, or a batch should go ahead."""
        wake_s = self.backlog.wake_s(now)
        times = (None if wake_s is None else now + wake_s, self._ahead.next_time(self._instances, now))
        self._alarm.arm(min((at for at in times if at is not None), default=None))

    def _dispatch(self, instance: Supervisor, batch: list[Waiting], now: float, why: Closed) -> RunningBatch | None:
        """Sends it. None where that was not possible: then the requests are put back, or failed."""
        expected_s = self.policy.service.seconds(batch[0].bucket, sum([waiting.rows for waiting in batch]))
        try:
            running = self._sender.send(instance, batch, expected_s, now)
        except ArenaExhausted as error:
            self.outcomes.no_room(batch, error)
            return None
        except (PeerGone, NoCredit) as error:
            self.outcomes.restore(batch)
            instance.kill(f"it takes no batch: {error}")
            return None
        self.hands.add(instance, running)
        self.tally.dispatched(batch, running.rows, now, why)
        self.tally.fill.add(running.rows / self.policy.cap.rows)
        self.tally.gather_s.add(self.clock() - now)
        real, padded = running.inputs.padding
        self.tally.real_elements += real
        self.tally.padded_elements += padded
        self.tally.copies.gathered(running.inputs.gathers, running.inputs.gathered_bytes)
        return running

    def _ready(self, instance: Supervisor) -> None:
        if instance.restarts and self.warm_up:
            far = self.clock() + self.member.warmup_timeout_seconds
            for inputs in self.warm_up:
                future: asyncio.Future[dict[str, Tensor]] = self._loop.create_future()
                future.add_done_callback(disown)  # a failed one says nothing of the next request
                waiting = self.waiting_for(inputs, "warm-up", far, future)
                self._pinned.setdefault(instance, deque()).append(waiting)
        self.pump()

    def waiting_for(
        self, inputs: Mapping[str, Tensor], request_id: str, deadline: float, outcome: Outcome, priority: int = 0
    ) -> Waiting:
        """The request as the queue takes it. Raises InvalidInput."""
        rows, bucket, elements = self.layouts.place(inputs)
        level = priority or self.member.batching.priority
        waiting = Waiting(request_id, inputs, rows, bucket, deadline, self.clock(), outcome, level, elements)
        waiting.nbytes = sum([tensor.nbytes for tensor in inputs.values()]) + self._output_size.expected(rows)
        waiting.timeline = CURRENT.get()
        return waiting

    def _hear(self, instance: Supervisor, message: FromWorker, payloads: Payloads) -> None:
        running = self.hands.first(instance)
        if not isinstance(message, (Need, Reply, Failure)) or running is None or message.batch != running.number:
            instance.kill(f"it sent {type(message).__name__} for a batch that it does not have")
            return
        if isinstance(message, Need):
            try:
                self._sender.widen(instance, running, message.nbytes)
            except (PeerGone, NoCredit) as error:
                instance.kill(f"it takes no grant: {error}")
            return
        self.hands.pop(instance)
        now = self.clock()
        self._pass_credit_on(instance, running, now)
        self.held_inputs.heard(instance, message.held)
        try:
            if isinstance(message, Reply):
                self._answers.learn(running, message.run_s, now)
                self._answers.complete(instance, running, message, payloads)
            else:
                self.outcomes.model_failed(running, message)
        finally:
            running.release(message.held)
        self.pump()

    def _pass_credit_on(self, instance: Supervisor, running: RunningBatch, now: float) -> None:
        """The credit goes to the batch that the worker has begun meanwhile, or back to the device."""
        if running.run is None:
            return
        device = self._lane_of(instance).device.credits
        following = self.hands.first(instance)
        if following is None:
            device.end(running.run, now)
            return
        following.began = now
        following.run = device.hand_over(running.run, following.expected_s, now)
        self._hangs.watch(following)

    def _lane_of(self, instance: Supervisor) -> Lane:
        if len(self._lanes) == 1:
            return self._lanes[0]
        return next(lane for lane in self._lanes if instance in lane.instances)

    def _died(self, instance: Supervisor, how: str, begun: int | None) -> None:
        self.held_inputs.forget(instance)
        what = f"the worker of {self.member.name} {how}"
        self.outcomes.fail(list(self._pinned.pop(instance, ())), WorkerDied(what, started=False))
        for running in self.hands.pop_all(instance):
            if running.run is not None:
                self._lane_of(instance).device.credits.end(running.run, self.clock())
            running.release()
            if running.is_warm_up:
                self.outcomes.fail(running.live(), WorkerDied(what, started=True))
            else:
                self.outcomes.worker_died(running, what, begun=begun is not None and running.number <= begun)
        self.pump()

    def _refusal(self, waiting: Waiting) -> PodiumError | None:
        now = waiting.arrived
        refusal = self.backlog.refusal(waiting, now, len(self._instances), max(0.0, self.hands.free_at() - now))
        assert refusal is None or isinstance(refusal, (DeadlineExceeded, PredictedLate))
        return refusal

    def _retry_after_s(self) -> float:
        return self.policy.retry_after_s(self.backlog.queue.rows, len(self._instances))

    def _drop(self, waiting: Waiting, error: DeadlineExceeded) -> None:
        self.tally.shed[Shed.EARLY_DROP] += 1
        self.outcomes.fail([waiting], error)

    def _expire(self, now: float) -> None:
        """Tells everyone whose deadline has passed."""
        queued = [waiting for waiting in self.backlog.queue if waiting.deadline <= now]
        for waiting in queued:
            self.backlog.discard(waiting)
        self.tally.shed[Shed.EXPIRED] += len(queued)
        self.outcomes.fail(queued, DeadlineExceeded("the deadline passed while it waited"))
        for batch in (*self.backlog.retries, *(running.requests for running in self.hands), *self._pinned.values()):
            late = [waiting for waiting in batch if waiting.deadline <= now]
            self.outcomes.fail(late, DeadlineExceeded("the deadline passed while the model worked"))
        self._note_idle()

    def _deadlines(self) -> Iterator[float]:
        """Of everyone who still waits for an answer."""
        for waiting in self.backlog.queue:
            yield waiting.deadline
        for batch in (*self.backlog.retries, *(running.live() for running in self.hands), *self._pinned.values()):
            for waiting in batch:
                if not waiting.future.done():
                    yield waiting.deadline

    def _note_idle(self) -> None:
        if not (self.backlog.waiting or self.hands or self._pinned):
            self.idle.set()
