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
from podium.errors import WorkerLoadError
from podium.serving.codec_group import CodecGroup
from podium.serving.errors import RevisionFailedError
from podium.serving.group import PodResources, WorkerGroup
from podium.serving.remote import Remotes
from podium.telemetry.logging import get_logger
from podium_crds.assignment import Member, Progress
from podium_crds.reasons import Reason

log = get_logger(__name__)

WARMED_SIZES = 4
"""Sizes of batches in use that a new revision warms up on, beside 1 and the largest."""


@dataclass(eq=False)
class SharedGroup:
    """One group and how many revisions hold it."""

    member: Member
    holders: int = 0
    digest: str | None = None
    """What the artifact hashed to; None until it is here."""
    path: Path | None = None
    group: WorkerGroup | None = None
    """The workers, once they are loaded."""
    codecs: CodecGroup | None = None
    """The worker of the model's own codecs, where it has any."""
    is_warm: bool = False
    is_candidate: bool = True
    """No revision that serves, or is to serve, has held it yet."""
    progress: Progress = field(default_factory=Progress)
    fetching: "asyncio.Task[None] | None" = None
    starting: "asyncio.Task[WorkerGroup] | None" = None

    def promote(self) -> None:
        """A revision that serves, or is to serve, uses it. Idempotent."""
        self.is_candidate = False
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
        if shared.holders:
            return
        self._forget(shared)
        task = asyncio.create_task(self._end(shared))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def groups(self) -> Iterable[SharedGroup]:
        """All that are held, loaded or not."""
        return tuple(self._groups)

    def rows_in_use(self, member: Member) -> tuple[int, ...]:
        """The commonest sizes of batches that the member has had where it serves now, in another revision."""
        sizes: Counter[int] = Counter()
        for shared in self._groups:
            if shared.group is not None and not shared.is_candidate and shared.member.name == member.name:
                sizes.update(shared.group.stats().batch_sizes)
        return tuple(rows for rows, _ in sizes.most_common(WARMED_SIZES))

    async def stopped(self) -> None:
        """Waits until every group that was let go of has ended; bounded by their grace. Nobody is called any more."""
        if self._stopping:
            await asyncio.wait(self._stopping)
        await self.remotes.close()

    async def _fetch(self, shared: SharedGroup) -> None:
        def progress(done: int, total: int | None) -> None:
            shared.progress = Progress(bytes_done=done, bytes_total=total)

        fetched = await self._artifacts.fetch(shared.member.artifact, progress)
        shared.digest, shared.path = fetched.digest, fetched.path

    async def _start(self, shared: SharedGroup) -> WorkerGroup:
        assert shared.path is not None, "fetched before it is started"
        shared.group = await WorkerGroup.start(
            shared.member, shared.path, pod=self._pod, is_candidate=shared.is_candidate
        )
        if forms := shared.group.forms:
            shared.codecs = await CodecGroup.start(
                shared.member, shared.path, forms, self._pod, is_candidate=shared.is_candidate
            )
        if not shared.is_candidate:  # since it may have been promoted meanwhile
            shared.promote()
        return shared.group

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
