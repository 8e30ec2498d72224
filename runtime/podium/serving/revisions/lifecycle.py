"""One revision's walk through a pod: Fetching → Loading → Warming → Ready ⇄ Active → Draining, or Failed."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from podium.serving.revisions.callee import Callee
from podium.serving.revisions.errors import RevisionFailedError
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.remote import RemoteGroup
from podium.serving.revisions.shared_groups import SharedGroup, SharedGroups
from podium.serving.revisions.warming import smoke_test, warm_up
from podium.telemetry.clock import utc_now
from podium.telemetry.logging import get_logger
from podium_crds.assignment import Failure, Member, ResourceRef, Revision, RevisionState
from podium_crds.reasons import Reason

log = get_logger(__name__)

RETRY_BASE_S = 1.0
RETRY_CAP_S = 60.0
MAX_MESSAGE_CHARS = 1024
LOADED = (RevisionState.READY, RevisionState.ACTIVE, RevisionState.DRAINING)


class HostedRevision:
    """A revision of an assignment, from its first byte to its last answer.

    `changed` is called after every change of state. `may_retry` says whether a failed load is tried again by itself:
    so it is for what must serve, and not for a candidate, which the operator judges.
    """

    def __init__(
        self,
        resource: ResourceRef,
        spec: Revision,
        groups: SharedGroups,
        turn: asyncio.Semaphore,
        changed: Callable[[], None],
    ) -> None:
        self.resource = resource
        self.spec = spec
        self.state = RevisionState.FETCHING
        self.since = utc_now()
        self.failure: Failure | None = None
        self.live: LiveRevision | None = None
        self.held: dict[str, SharedGroup] = {}
        """Member name → its group."""
        self.is_wanted_for_serving = False
        """True: a failed load is retried with back-off."""
        self.is_urgent = False
        """It is to serve, and nothing serves meanwhile: its load is not held back."""
        self._groups = groups
        self._turn = turn
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._attempts = 0
        self._again = asyncio.Event()

    @property
    def name(self) -> str:
        """The revision's name."""
        return self.spec.name

    def fits(self, spec: Revision) -> bool:
        """Whether these workers are what `spec` asks for: same name, same load hashes, no other digest than pinned."""
        if spec.name != self.name or loads_like(spec) != loads_like(self.spec):
            return False
        return not any(self._differs(member) for member in spec.members)

    def _differs(self, member: Member) -> bool:
        """A digest that was pinned after this pod had loaded, and that is not what it loaded."""
        shared = self.held.get(member.name)
        known = shared.digest if shared else None
        return None not in (known, member.artifact.digest) and known != member.artifact.digest

    @property
    def _loaded(self) -> tuple[Member, ...]:
        """The members that run in this pod."""
        return tuple(member for member in self.spec.members if member.remote is None)

    def start(self) -> None:
        """Begins to load."""
        self._task = asyncio.create_task(self._load_until_ready(), name=f"load {self.name}")

    def retune(self, spec: Revision) -> None:
        """Takes on a spec that loads the same workers."""
        self.spec = spec
        if self.live is not None:
            self.live.retune(spec)
            if self.state is RevisionState.ACTIVE:
                self.apply_tuning()

    def apply_tuning(self) -> None:
        """Gives the shared workers this revision's batching: done when it becomes active."""
        for member in self._loaded:
            if group := self.held[member.name].group:
                tuned = {
                    "idempotent": member.idempotent,
                    "timeout_seconds": member.timeout_seconds,
                    "hang_timeout_seconds": member.hang_timeout_seconds,
                }
                group.member = group.member.model_copy(update=tuned)
                group.set_batching(member.batching)

    def promote(self) -> None:
        """It serves, or is urgent: its workers are held back no longer. Idempotent."""
        for shared in self.held.values():
            shared.promote()

    def enter(self, state: RevisionState) -> None:
        """Moves on, noting when."""
        if state is self.state:
            return
        self.state, self.since = state, utc_now()
        log.info("revision_state", resource=self.resource.name, revision=self.name, state=state.value)

    def fail(self, reason: Reason, message: str, exit_code: int | None = None) -> None:
        """Notes a failure, without a change of state."""
        clipped = message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"
        self.failure = Failure(reason=reason, message=clipped, exit_code=exit_code, time=utc_now())
        log.warning("revision_failed", resource=self.resource.name, revision=self.name, reason=reason, message=clipped)

    def try_again(self) -> None:
        """Has a load that failed begin anew at once: what was in its way is gone."""
        self._attempts = 0
        self._again.set()

    async def end(self) -> None:
        """Gives up a load, or waits for the last answer; then lets the workers go. Idempotent."""
        if self.live is None:
            await self._cancel_load()
        else:
            self.enter(RevisionState.DRAINING)
            for shared in self.held.values():
                shared.leaving += 1
            idle = asyncio.Event()
            self.live.notify_idle(idle.set)
            await idle.wait()  # bounded: every request has a deadline
        self._let_go()

    async def _cancel_load(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _load_until_ready(self) -> None:
        while True:
            try:
                async with self._turn:
                    await self._load()
            except RevisionFailedError as error:
                self._let_go()
                self.fail(error.reason, str(error), error.exit_code)
                self.enter(RevisionState.FAILED)
                self._changed()
            except Exception as error:  # noqa: BLE001 - a fault of ours must show in the report, not vanish with the task
                self._let_go()
                log.error("revision_load_broke", error=error, revision=self.name)
                self.fail(Reason.LOAD_FAILED, f"{type(error).__name__}: {error}")
                self.enter(RevisionState.FAILED)
                self._changed()
            else:
                self.enter(RevisionState.READY)
                self._changed()
                return
            await self._wait_to_retry()

    async def _wait_to_retry(self) -> None:
        """Returns when another attempt is due; waits on while the revision is not wanted for serving."""
        self._attempts += 1
        longest = min(RETRY_CAP_S, RETRY_BASE_S * 2**self._attempts)
        self._again.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(longest / 2, longest)):  # noqa: S311 - jitter
                await self._again.wait()
        while not self.is_wanted_for_serving:  # noqa: ASYNC110 - for as long as the assignment says so
            await asyncio.sleep(RETRY_BASE_S)

    async def _load(self) -> None:
        self.enter(RevisionState.FETCHING)
        self._changed()
        self.held = {member.name: self._groups.hold(member) for member in self._loaded}
        if self.is_urgent:
            self.promote()
        for member in self._loaded:
            with self._named(member):
                await self._groups.fetch(self.held[member.name])
        self._check_digests()
        self.enter(RevisionState.LOADING)
        groups: dict[str, Callee] = {
            member.name: RemoteGroup(member, self._groups.remotes) for member in self.spec.members if member.remote
        }
        for member in self._loaded:
            with self._named(member):
                groups[member.name] = await self._groups.start(self.held[member.name])
        self.enter(RevisionState.WARMING)
        for member in self._loaded:
            with self._named(member):
                await self._warm(member, self.held[member.name])
        codecs = None if self.spec.graph else next((shared.codecs for shared in self.held.values()), None)
        self.live = LiveRevision(self.resource, self.spec, groups, codecs)

    def _check_digests(self) -> None:
        """A group that another revision began to fetch without a digest may have brought other bytes."""
        for member in self.spec.members:
            if self._differs(member):
                found, wanted = self.held[member.name].digest, member.artifact.digest
                message = f"{member.artifact.uri or 'the inline files'} hashed to {found}, expected {wanted}"
                with self._named(member):
                    raise RevisionFailedError(Reason.ARTIFACT_DIGEST_MISMATCH, message)

    @contextmanager
    def _named(self, member: Member) -> Iterator[None]:
        """A failure in it is that of this member, which a pipeline's says."""
        try:
            yield
        except RevisionFailedError as error:
            if not self.spec.graph:
                raise
            message = f"model {member.name}: {error}"
            raise RevisionFailedError(error.reason, message, error.exit_code) from error

    async def _warm(self, member: Member, shared: SharedGroup) -> None:
        if shared.is_warm or shared.group is None:
            return
        await warm_up(member, shared.group, self._groups.in_use(member))
        await smoke_test(member, shared.group)
        shared.is_warm = True

    def _let_go(self) -> None:
        for shared in self.held.values():
            self._groups.let_go(shared)
        self.held = {}


def loads_like(spec: Revision) -> tuple[tuple[str, str], ...]:
    """Members by name and load hash: two specs with the same tuple use the same workers."""
    return tuple((member.name, member.load_hash) for member in spec.members)
