"""Worker groups by load hash, shared by every revision whose member loads the same bytes in the same way.

A revision that changes one member starts one group; one that only tunes starts none, and its workers keep their pids.
A group ends when its last holder lets go, also while it is still loading.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from podium.artifacts import ArtifactError, ArtifactStore
from podium.batching.lengths import InUse, Lengths
from podium.errors import WorkerLoadError
from podium.serving.dispatch.codec_group import CodecGroup
from podium.serving.dispatch.group import PodResources, WorkerGroup
from podium.serving.revisions.errors import RevisionFailedError
from podium.serving.revisions.remote import Remotes
from podium.serving.workers.footprint import Footprint, does_not_fit, footprint_of
from podium.serving.workers.memory import left_bytes
from podium.telemetry.cgroup import memory_state
from podium.telemetry.logging import get_logger
from podium_crds.assignment import Member, Progress
from podium_crds.reasons import Reason

log = get_logger(__name__)

SHADOW_PART = 16
"""Copies for a candidate may keep one part in so many of the arena."""
WARMED_SIZES = 4
"""Sizes of batches in use that a new revision warms up on, beside 1 and the largest."""
WARMED_LENGTHS = 8
"""Classes of lengths in use that it warms up on, at two sizes each."""
LOOK_EVERY_S = 0.1
"""While a load waits for memory that others are about to give back."""


@dataclass(eq=False)
class SharedGroup:
    """One group and how many revisions hold it."""

    member: Member
    holders: int = 0
    leaving: int = 0
    """Holders that let go of it once they have given their last answer."""
    digest: str | None = None
    """What the artifact hashed to; None until it is here."""
    footprint: Footprint = field(default_factory=Footprint)
    """Of its weights; nothing before it was let load."""
    path: Path | None = None
    group: WorkerGroup | None = None
    """The workers, once they are loaded."""
    codecs: CodecGroup | None = None
    """The worker of the model's own codecs, where it has any."""
    is_warm: bool = False
    to_serve: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a revision that serves, or is to serve, holds it."""
    progress: Progress = field(default_factory=Progress)
    fetching: "asyncio.Task[None] | None" = None
    starting: "asyncio.Task[WorkerGroup] | None" = None

    @property
    def is_leaving(self) -> bool:
        """No holder stays."""
        return self.leaving >= self.holders

    @property
    def is_candidate(self) -> bool:
        """No revision that serves, or is to serve, has held it yet."""
        return not self.to_serve.is_set()

    def promote(self) -> None:
        """A revision that serves, or is to serve, uses it. Idempotent."""
        self.to_serve.set()
        for group in (self.group, self.codecs):
            if group is not None:
                group.promote()

    def fits(self, member: Member) -> bool:
        """Whether a revision with this member may use the group."""
        wanted = member.artifact.digest
        known = self.digest or self.member.artifact.digest
        return self.member.load_hash == member.load_hash and (wanted is None or known in (None, wanted))


class SharedGroups:
    """Every group of this process. One event loop's thread."""

    def __init__(self, pod: PodResources, artifacts: ArtifactStore, stop_grace_s: float) -> None:
        self._pod = pod
        self._artifacts = artifacts
        self._stop_grace_s = stop_grace_s
        self.remotes = Remotes(pod.arena)
        """Models of other pods."""
        self._groups: list[SharedGroup] = []
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def shadow_bytes(self) -> int:
        """Of requests and answers that may be kept for copies to a candidate."""
        return self._pod.arena.size_bytes // SHADOW_PART

    def hold(self, member: Member) -> SharedGroup:
        """The group for a member, made if none fits. Nothing is fetched yet. `let_go` of it in the end."""
        shared = next((group for group in self._groups if group.fits(member)), None)
        if shared is None:
            shared = SharedGroup(member)
            self._groups.append(shared)
            self._pod.prepare(member.engine)  # torch takes seconds to import: let it do so while the artifact comes
        shared.holders += 1
        return shared

    async def fetch(self, shared: SharedGroup) -> None:
        """Has the artifact brought here, together with whoever else waits for it. Raises RevisionFailedError."""
        if shared.fetching is None:
            shared.fetching = asyncio.create_task(self._fetch(shared))
        try:
            await asyncio.shield(shared.fetching)
        except ArtifactError as error:
            self._forget(shared)
            raise RevisionFailedError(error.reason, str(error)) from error

    async def start(self, shared: SharedGroup) -> WorkerGroup:
        """Has the workers started, together with whoever else waits for them. Raises RevisionFailedError."""
        if shared.starting is None:
            shared.starting = asyncio.create_task(self._start(shared))
        try:
            return await asyncio.shield(shared.starting)
        except WorkerLoadError as error:
            self._forget(shared)
            raise RevisionFailedError(error.reason, str(error), error.exit_code) from error
        except OSError as error:
            self._forget(shared)
            raise RevisionFailedError(Reason.LOAD_FAILED, f"workers could not be started: {error}") from error

    def let_go(self, shared: SharedGroup) -> None:
        """One holder needs the group no more; the last one ends it. Does not wait."""
        shared.holders -= 1
        shared.leaving = max(0, shared.leaving - 1)
        if shared.holders:
            return
        self._forget(shared)
        task = asyncio.create_task(self._end(shared))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    @property
    def mapped_bytes(self) -> int:
        """Weights that are mapped from files by what is loaded or loads: page cache, which the kernel does not count as
        taken, and without which the models stand still."""
        by_artifact: dict[str | None, int] = {}
        for shared in self._groups:
            by_artifact[shared.digest] = max(by_artifact.get(shared.digest, 0), shared.footprint.mapped_bytes)
        return sum(by_artifact.values())

    def groups(self) -> Iterable[SharedGroup]:
        """All that are held, loaded or not."""
        return tuple(self._groups)

    def in_use(self, member: Member) -> InUse:
        """The commonest sizes and lengths of batches that the member has where it serves now, in another revision."""
        sizes: Counter[int] = Counter()
        lengths: list[Lengths] = []
        for shared in self._groups:
            if shared.group is not None and not shared.is_candidate and shared.member.name == member.name:
                tally = shared.group.stats().tally
                sizes.update(tally.batch_sizes)
                lengths += [each for each in tally.lengths.commonest(WARMED_LENGTHS) if each not in lengths]
        return InUse(tuple(rows for rows, _ in sizes.most_common(WARMED_SIZES)), tuple(lengths[:WARMED_LENGTHS]))

    async def gone(self) -> None:
        """Waits until every group that was let go of has ended, and its memory is free; bounded by their grace."""
        if self._stopping:
            await asyncio.wait(tuple(self._stopping))

    async def stopped(self) -> None:
        """As `gone`, at the very end: nobody is called any more."""
        await self.gone()
        await self.remotes.close()

    async def _fetch(self, shared: SharedGroup) -> None:
        def progress(done: int, total: int | None) -> None:
            shared.progress = Progress(bytes_done=done, bytes_total=total)

        fetched = await self._artifacts.fetch(shared.member.artifact, progress)
        shared.digest, shared.path = fetched.digest, fetched.path

    async def _start(self, shared: SharedGroup) -> WorkerGroup:
        assert shared.path is not None, "fetched before it is started"
        await self._admit(shared, shared.path)
        shared.group = await WorkerGroup.start(shared.member, shared.path, pod=self._pod, to_serve=shared.to_serve)
        if forms := shared.group.forms:
            shared.codecs = await CodecGroup.start(
                shared.member, shared.path, forms, self._pod, to_serve=shared.to_serve
            )
        if not shared.is_candidate:  # since it may have been promoted meanwhile
            shared.promote()
        return shared.group

    async def _admit(self, shared: SharedGroup, path: Path) -> None:
        """Refuses weights for which there is no room, before a byte of them is read; waits for those that are on their
        way out. Raises WorkerLoadError."""
        member = shared.member
        on_cpu = self._pod.runs_on_cpu(member.engine)
        footprint = await asyncio.to_thread(footprint_of, member, path, on_cpu=on_cpu)
        patience = asyncio.get_running_loop().time() + member.load_timeout_seconds
        while (refusal := self._refusal(shared, footprint)) is not None:
            is_clearing = bool(self._stopping) or any(other.is_leaving for other in self._others(shared))
            if not is_clearing or asyncio.get_running_loop().time() > patience:
                raise refusal
            await asyncio.sleep(LOOK_EVERY_S)
        shared.footprint = footprint

    def _refusal(self, shared: SharedGroup, footprint: Footprint) -> WorkerLoadError | None:
        member, others, state = shared.member, self._others(shared), memory_state()
        is_mapped = any(other.digest == shared.digest and other.footprint.mapped_bytes for other in others)
        need = footprint.total(member.instances) - (footprint.mapped_bytes if is_mapped else 0)
        loading = (other for other in others if other.group is None)
        left = left_bytes(state) - self.mapped_bytes
        left -= sum(other.footprint.private_bytes * other.member.instances for other in loading)
        if not need or need <= left:
            return None
        # A pipeline's new model has no forerunner: what its revision would replace is in the way all the same.
        overlaps = any(
            other.group is not None
            and (other.member.name == member.name or (shared.is_candidate and not other.is_candidate))
            for other in others
        )
        return WorkerLoadError(
            Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP if overlaps else Reason.LOAD_FAILED,
            does_not_fit(member.name, footprint, member.instances, left, state.limit_bytes),
        )

    def _others(self, shared: SharedGroup) -> list[SharedGroup]:
        return [other for other in self._groups if other is not shared]

    def _forget(self, shared: SharedGroup) -> None:
        """No new holder finds a group that failed or ended; its holders still let go of it."""
        if shared in self._groups:
            self._groups.remove(shared)

    async def _end(self, shared: SharedGroup) -> None:
        for task in (shared.fetching, shared.starting):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait((task,))
        if shared.codecs is not None:
            await shared.codecs.stop(self._stop_grace_s)
        if shared.group is not None:
            await shared.group.stop(self._stop_grace_s)
            log.info("workers_stopped", member=shared.member.name, load_hash=shared.member.load_hash)
        await self._artifacts.trim({held.digest for held in self._groups if held.digest is not None})
