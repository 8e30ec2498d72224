"""Keeps one worker process of a model alive: start, watch, restart with back-off, stop.

Each life of the process has an epoch, a name at the socket and a token of its own, so that late words of a dead one
reach nobody. Who supervises learns of readiness, messages and deaths through `Events`.
"""

import asyncio
import os
import random
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from podium.errors import ProtocolError, WorkerLoadError
from podium.ipc.bootstrap import Bootstrap, Role
from podium.ipc.channel import NoCredit, Payloads, PeerGone
from podium.ipc.journal import Journal, create_journal
from podium.ipc.lease import Holder
from podium.ipc.protocol import (
    Drain,
    FromWorker,
    Hello,
    LoadFailed,
    OwnForms,
    Ready,
    Stats,
    Stop,
    Threads,
    ToWorker,
)
from podium.serving.workers.backoff import STABLE_AFTER_S, Backoff
from podium.serving.workers.forkserver import ForkLost
from podium.serving.workers.life import EarlyWords, Events, InstanceState, Life, to_its_end
from podium.serving.workers.llm_totals import LlmTotals
from podium.serving.workers.loading import as_candidate, load_error
from podium.serving.workers.memory import load_budget, overrun, too_large
from podium.serving.workers.pod import PodResources
from podium.serving.workers.priority import Priority
from podium.serving.workers.process import described_death, described_exit, is_fault, memory_bytes_of_tree
from podium.telemetry.logging import get_logger
from podium_crds.assignment import Artifact, Member
from podium_crds.reasons import Reason

log = get_logger(__name__)

MEASURE_EVERY_S = 10.0
"""How old the memory figures of a report may be."""
KILL_TIMEOUT_S = 10.0
"""The kernel ends a killed process at once, unless it is stuck in a driver."""
LAST_WORDS_TIMEOUT_S = 1.0
"""How long a dead worker's LoadFailed may take to be read."""


class Supervisor:
    """One instance of a member."""

    def __init__(
        self,
        member: Member,
        artifact_dir: Path,
        index: int,
        pod: PodResources,
        events: Events,
        role: Role = Role.MODEL,
    ) -> None:
        """Starts nothing; see `start`."""
        self.name = f"{member.name}-{index}"
        self.state = InstanceState.LOADING
        self.restarts = 0
        self.private_bytes = 0
        self.shared_bytes = 0
        self.measured = LlmTotals()
        self.epoch = 0
        self._to_serve = asyncio.Event()
        self._holder = Holder(self.name)
        self.infers = True
        """Whether the model answers batches, as its last Ready said."""
        self.streams = False
        """Whether the model answers streams, as its last Ready said."""
        self.forms = OwnForms()
        """What the model's own codecs read and write, as its last Ready said."""
        self._role = role
        self._member = member
        self._wire = member.model_copy(update={"artifact": Artifact(), "warmup": (), "smoke_test": None})
        self._artifact_dir = artifact_dir
        self._share = pod.share(member, index)
        self.device = self._share.device if self._share is not None else pod.place(member.engine)
        """`cpu` or `cuda:N`."""
        self._pod = pod
        self._events = events
        self._life: Life | None = None
        self._backoff = Backoff()
        self._ready_since: float | None = None
        self._budget_bytes = 0
        """Private memory that the present life may take while it loads."""
        self._kill_reason: str | None = None
        self._stopping = self._has_faulted = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_candidate(self) -> bool:
        """Loads behind what serves, until `promote`."""
        return not self._to_serve.is_set()

    @property
    def ready(self) -> bool:
        """True while the worker takes batches."""
        return self.state is InstanceState.READY

    @property
    def is_crash_looping(self) -> bool:
        """True from the death that made it one until a life has been stable."""
        since = self._ready_since
        lived_s = 0.0 if since is None else asyncio.get_running_loop().time() - since
        return self._backoff.is_crash_loop and lived_s <= STABLE_AFTER_S

    @property
    def pid(self) -> int | None:
        """Pid of the present process."""
        return self._life.process.pid if self._life and self._life.process.alive else None

    @property
    def holder(self) -> Holder:
        """In whose name leases of the present life are kept; groups of two revisions may have instances of one name."""
        return self._holder if self._life else Holder(self.name, self.epoch)

    async def start(self, to_serve: asyncio.Event) -> None:
        """Returns when the first life is ready. Raises WorkerLoadError; nothing is left then.

        `to_serve` is set as soon as the member serves or is to: until then this is a candidate.
        """
        self._to_serve = to_serve
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(first), name=f"supervise-{self.name}")
        self._task.add_done_callback(partial(self._supervision_ended, first))
        try:
            await first
        except BaseException:
            await self.abort()
            raise

    def send(self, message: ToWorker, payloads: Payloads = ()) -> None:
        """Raises PeerGone or NoCredit."""
        if self._life is None:
            raise PeerGone(f"{self.name} has no process")
        self._pod.broker.send(self._life.peer, message, payloads)

    def promote(self) -> None:
        """It serves, or is about to: gives it its full priority and its threads, now or when it is ready."""
        self._to_serve.set()
        if self._life is not None and self.ready:
            self._let_go(self._life)

    def _let_go(self, life: Life) -> None:
        if life.held_back and not self.is_candidate:
            life.held_back = False
            life.priority.let_go()
            with suppress(PeerGone, NoCredit):
                self.send(Threads(self.epoch, self._member.engine.threads))

    def kill(self, reason: str) -> None:
        """Ends the present process at once; it is restarted. `reason` says why, for logs and errors."""
        if self.ready:
            # Also where it has ended by itself and is not mourned yet: who finds it gone must not be given it again.
            self.state = InstanceState.BACKING_OFF
        if self._life is not None and self._life.process.alive:
            self._kill_reason = reason
            self._pod.broker.unregister(self._life.peer)  # what it said meanwhile is not to be believed either
            self._life.process.kill()

    async def stop(self, grace_s: float) -> None:
        """Lets the worker unload, kills it after `grace_s`. Idempotent."""
        self._stopping = True
        life = self._life
        if life is not None and life.process.alive and self.ready:
            with suppress(PeerGone, NoCredit):
                self.send(Drain(self.epoch))
                self.send(Stop(self.epoch))
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await asyncio.shield(life.process.exited)
        await self.abort()

    async def abort(self) -> None:
        """Kills the worker and ends the supervision."""
        self._stopping = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.state = InstanceState.STOPPED
        self.give_back()

    def give_back(self) -> None:
        """Its part of a GPU is free: its process has ended, or never began. Idempotent."""
        share, self._share = self._share, None
        if share is not None:
            self._pod.gpu_shares.release(share)

    async def _run(self, first: asyncio.Future[None]) -> None:
        while True:
            try:
                async with AsyncExitStack() as turn:
                    await turn.enter_async_context(self._pod.load_turns.taken(self._to_serve))
                    began: float | None = await self._live(first, turn)
            except (WorkerLoadError, OSError) as failure:
                error = load_error(failure)
                if not first.done():
                    first.set_exception(error)
                    return
                log.error("worker_load_failed", instance=self.name, message=str(error), exit_code=error.exit_code)
                began = None
            if self._stopping:
                return
            self._backoff.note_end(None if began is None else asyncio.get_running_loop().time() - began)
            await self._back_off()

    def _supervision_ended(self, first: asyncio.Future[None], task: asyncio.Task[None]) -> None:
        """Nothing may end this task but `abort` and a failed first load; if a bug of ours does, it is said aloud."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.state = InstanceState.CRASH_LOOP
        log.error("supervision_ended", error=error, instance=self.name)
        if not first.done():
            first.set_exception(error)

    async def _back_off(self) -> None:
        crashing = self._backoff.is_crash_loop
        self.state = InstanceState.CRASH_LOOP if crashing else InstanceState.BACKING_OFF
        delay = self._backoff.delay_s(random.random())  # noqa: S311 - spreads restarts, guards nothing
        level = log.error if crashing else log.warning
        level("worker_restarting", instance=self.name, failures=self._backoff.failures, delay_s=round(delay, 3))
        await asyncio.sleep(delay)
        self.restarts += 1

    async def _live(self, first: asyncio.Future[None], turn: AsyncExitStack) -> float:
        """One life from launch to death; returns when it became ready, turn over. Raises WorkerLoadError, OSError."""
        journal_fd = create_journal()
        try:
            life = await self._launch(journal_fd)
            try:
                await self._loaded(life)
                await turn.aclose()
                began = self._ready_since = asyncio.get_running_loop().time()
                if not first.done():
                    first.set_result(None)
                self._let_go(life)
                self._events.ready(self)
                status = await self._watched(life)
            finally:
                await to_its_end(self._bury(life))
            self._mourn(status, journal_fd)
            return began
        finally:
            os.close(journal_fd)
            if self._life is not None:
                self._pod.arena.ledger.drop_holder(self.holder)
                self._life = None

    async def _bury(self, life: Life) -> None:
        """Ends the process and all that it left. Until they are gone they may write to its slots, and hold its GPU."""
        if self.ready:
            self.state = InstanceState.BACKING_OFF
        self._pod.broker.unregister(life.peer)
        self._ready_since = None
        self.measured.end_life()
        life.priority.forget()
        life.process.kill()
        await asyncio.wait((life.process.exited,), timeout=KILL_TIMEOUT_S)
        await self._pod.end_strays()

    async def _watched(self, life: Life) -> int | None:
        """Waits for the end of the process, measuring its memory now and then; returns its status."""
        while life.process.alive:
            await asyncio.wait((life.process.exited,), timeout=MEASURE_EVERY_S)
            await self._measure(life)
        return life.process.exited.result()

    async def _measure(self, life: Life) -> None:
        if life.process.alive:
            self.private_bytes, self.shared_bytes = await asyncio.to_thread(memory_bytes_of_tree, life.process.pid)

    def _mourn(self, status: int | None, journal_fd: int) -> None:
        self._has_faulted |= is_fault(status)
        reason, self._kill_reason = self._kill_reason, None
        words = f"ended with {described_death(status)}" if reason is None else f"was killed: {reason}"
        if not self._stopping:
            log.warning("worker_died", instance=self.name, epoch=self.epoch, how=words)
        self._events.died(self, words, Journal(journal_fd).last())

    async def _launch(self, journal_fd: int) -> Life:
        """A new life. Where a fork server died over it, what it may have begun is gone, and another epoch is tried."""
        while True:
            try:
                return await self._launch_once(journal_fd)
            except ForkLost as error:  # the next one is spawned if it happens again: ForkServers backs off
                log.warning("fork_lost", instance=self.name, epoch=self.epoch, message=str(error))

    async def _launch_once(self, journal_fd: int) -> Life:
        self.epoch += 1
        self.state = InstanceState.LOADING
        self._budget_bytes = load_budget(self._member.instances)
        peer = self._pod.new_peer(self.name, self.epoch)
        self._holder = Holder(peer.decode(), self.epoch)
        token = self._pod.new_token()
        bootstrap = Bootstrap(
            endpoint=self._pod.broker.endpoint,
            peer=peer,
            epoch=self.epoch,
            token=token,
            parent_pid=os.getpid(),
            arena_bytes=self._pod.arena.size_bytes,
            inline_bytes=self._pod.options.inline_bytes,
            artifact_dir=str(self._artifact_dir),
            device=self.device,
            member=as_candidate(self._wire, self.is_candidate).model_dump_json(by_alias=True, exclude_none=True),
            load_bytes=self._budget_bytes if self.device == "cpu" else None,
            role=self._role,
            watches_inputs=self._has_faulted,
        )
        # The worker may speak before we learn its pid: that is kept, and heard once its life is known.
        early = EarlyWords()
        self._pod.broker.register(peer, early.hear, early.intrude)
        try:
            process = await self._pod.launch(self._member.engine, bootstrap, journal_fd)
        except BaseException:
            self._pod.broker.unregister(peer)
            raise
        outcome: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        life = self._life = Life(peer, token, process, Priority(process.pid), outcome, self.is_candidate)
        if life.held_back:
            life.priority.hold_back()
        else:
            life.priority.let_go()
        self._pod.broker.register(peer, self._hear, self._intrude)
        early.tell(peer, self._hear, self._intrude)
        return life

    async def _loaded(self, life: Life) -> None:
        """Waits for Ready. Raises WorkerLoadError on anything else, within the member's load timeout."""
        watchdog = asyncio.create_task(self._kill_if_too_large(life), name=f"memory-{self.name}")
        try:
            async with asyncio.timeout(self._member.load_timeout_seconds):
                await asyncio.wait((life.outcome, life.process.exited), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise WorkerLoadError(
                Reason.LOAD_FAILED,
                f"not loaded after {self._member.load_timeout_seconds} s; raise loadTimeoutSeconds if it needs longer",
            ) from None
        finally:
            watchdog.cancel()
        if not life.outcome.done():
            # Its last message may still be on its way: the socket and the pidfd are not ordered.
            await asyncio.wait((life.outcome,), timeout=LAST_WORDS_TIMEOUT_S)
        if not life.outcome.done():
            status = life.process.exited.result()
            reason, self._kill_reason = self._kill_reason, None
            words = f"was killed, since {reason}," if reason else f"ended with {described_exit(status)}"
            raise WorkerLoadError(Reason.LOAD_FAILED, f"the process {words} while loading", status)
        await self._take_outcome(life)

    async def _kill_if_too_large(self, life: Life) -> None:
        grown = await overrun(life.process, self._budget_bytes)
        log.error("load_too_large", instance=self.name, private_bytes=grown, budget_bytes=self._budget_bytes)
        self.kill(too_large(grown, self._budget_bytes))

    async def _take_outcome(self, life: Life) -> None:
        try:
            ready = life.outcome.result()
        except WorkerLoadError as error:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_TIMEOUT_S):
                    error.exit_code = await asyncio.shield(life.process.exited)
            raise
        await self._measure(life)
        self.infers, self.streams, self.forms = ready.infers, ready.streams, ready.forms
        self.state = InstanceState.READY
        log.info(
            "worker_ready",
            instance=self.name,
            epoch=self.epoch,
            pid=life.process.pid,
            load_s=round(ready.load_s, 3),
            private_bytes=self.private_bytes,
            shared_bytes=self.shared_bytes,
        )

    def _hear(self, peer: bytes, message: FromWorker, payloads: Payloads) -> None:
        life = self._life
        if life is None or peer != life.peer or message.epoch != self.epoch:
            return
        if (wrong := life.doubt(message)) is not None:
            self.kill(wrong)
        elif isinstance(message, Stats):
            self.measured.take(message.llm)
        elif not isinstance(message, (Hello, Ready, LoadFailed)):
            self._events.message(self, message, payloads)

    def _intrude(self, _peer: bytes, error: ProtocolError) -> None:
        self.kill(str(error))
