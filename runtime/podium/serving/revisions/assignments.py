"""Where assignments come from, and which one is in force.

Three sources: the mounted copy (promoted and warm revisions, may lag by a minute), a push over the admin port (also
candidates and weights), and this pod's own durable copy of the last one accepted. At start the higher generation wins,
candidates dropped, so that a restarted container comes up at the promoted revision although the mount may lag.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from podium.serving.revisions.errors import AssignmentRefusedError
from podium.telemetry.clock import utc_now
from podium.telemetry.logging import get_logger
from podium_crds.assignment import (
    MAX_ASSIGNMENT_BYTES,
    SCHEMA_VERSION,
    Assignment,
    Failure,
    Generation,
    TrafficTarget,
)
from podium_crds.keys import ASSIGNMENT_FILE
from podium_crds.reasons import Reason

log = get_logger(__name__)

FULL_WEIGHT = 100


class AssignmentDesk:
    """Accepts assignments for one pod and hands each to `apply`.

    Every accepted assignment is on disk before it is acted on or acknowledged.
    """

    def __init__(
        self,
        mount_dir: Path,
        state_dir: Path,
        pod_uid: str,
        apply: Callable[[Assignment], None],
    ) -> None:
        self._mount_file = mount_dir / ASSIGNMENT_FILE
        self._state_file = state_dir / ASSIGNMENT_FILE
        self._pod_uid = pod_uid
        self._apply = apply
        self._one_at_a_time = asyncio.Lock()
        self._was_pushed = False
        self.applied: Assignment | None = None
        self.mounted: Assignment | None = None
        self.last_failure: Failure | None = None

    async def restore(self) -> None:
        """At start: takes the higher generation of the mounted and the durable copy, without candidates."""
        async with self._one_at_a_time:
            self.mounted = await asyncio.to_thread(self._read, self._mount_file)
            kept = await asyncio.to_thread(self._read, self._state_file)
            if kept is not None and (self.mounted is None or kept.generation > self.mounted.generation):
                chosen: Assignment | None = without_candidates(kept, self.mounted)
            else:
                chosen = self.mounted
            if chosen is not None:
                await self._accept(chosen, "restore")

    async def watch(self, interval_s: float) -> None:
        """Looks at the mounted copy until cancelled. A higher generation in it is taken on."""
        while True:
            await asyncio.sleep(interval_s)
            async with self._one_at_a_time:
                await self._look_at_mount()

    async def push(self, assignment: Assignment) -> None:
        """Takes what the operator sent; the same one again has no effect. Raises AssignmentRefusedError."""
        if assignment.pod_uid is not None and assignment.pod_uid != self._pod_uid:
            raise AssignmentRefusedError(f"the assignment is for pod {assignment.pod_uid}, this pod is {self._pod_uid}")
        async with self._one_at_a_time:
            try:
                fresh = self._is_news(assignment)
            except AssignmentRefusedError as error:
                self._note(str(error))
                raise
            if fresh:
                await self._accept(assignment, "push")
                self._was_pushed = True

    def _is_news(self, assignment: Assignment) -> bool:
        _check_schema(assignment)
        if self.applied is None:
            return True
        if assignment.resource != self.applied.resource:
            raise AssignmentRefusedError(
                f"this pod serves {_shown(self.applied)}; the assignment is for {_shown(assignment)}"
            )
        if assignment.generation < self.applied.generation:
            raise AssignmentRefusedError(
                f"generation {_numbers(assignment.generation)} is lower than {_numbers(self.applied.generation)}, "
                "which is applied: a leader that lost its Lease sent it"
            )
        if assignment.generation > self.applied.generation:
            return True
        if _content(assignment) == _content(self.applied):
            return False
        if self._was_pushed:
            raise AssignmentRefusedError(
                f"generation {_numbers(assignment.generation)} is applied already, with other content"
            )
        return True  # the mounted copy of this generation was applied first; the push adds candidates and weights

    async def _look_at_mount(self) -> None:
        mounted = await asyncio.to_thread(self._read, self._mount_file)
        if mounted is None or mounted == self.mounted:
            return
        self.mounted = mounted
        log.info("mount_changed", generation=_numbers(mounted.generation))
        try:
            higher = self.applied is None or mounted.generation > self.applied.generation
            if higher and self._is_news(mounted):
                await self._accept(mounted, "mount")
                self._was_pushed = False
        except AssignmentRefusedError as error:
            self._note(str(error))

    async def _accept(self, assignment: Assignment, source: str) -> None:
        await asyncio.to_thread(write_durably, self._state_file, assignment.model_dump_json(by_alias=True).encode())
        self.applied = assignment
        log.info(
            "assignment_accepted",
            source=source,
            generation=_numbers(assignment.generation),
            promoted=assignment.promoted,
            revisions=[revision.name for revision in assignment.revisions],
        )
        self._apply(assignment)

    def _read(self, path: Path) -> Assignment | None:
        """Blocking. A file that is not there, or not an assignment, counts as none; the latter is reported."""
        try:
            with path.open("rb") as handle:
                raw = handle.read(MAX_ASSIGNMENT_BYTES + 1)
        except OSError:
            return None
        try:
            if len(raw) > MAX_ASSIGNMENT_BYTES:
                raise AssignmentRefusedError(f"{path} is larger than {MAX_ASSIGNMENT_BYTES} bytes")
            assignment = Assignment.model_validate_json(raw)
            _check_schema(assignment)
        except (ValidationError, AssignmentRefusedError) as error:
            self._note(f"{path} cannot be used: {error}")
            return None
        return assignment

    def _note(self, message: str) -> None:
        clipped = message[:1024]
        if self.last_failure is None or self.last_failure.message != clipped:
            log.warning("assignment_refused", message=clipped)
            self.last_failure = Failure(reason=Reason.RECONCILE_ERROR, message=clipped, time=utc_now())


def without_candidates(kept: Assignment, mounted: Assignment | None) -> Assignment:
    """What of a durable copy a restarted container takes on: the promoted revision and what the mount names too.

    Without a promoted revision (none was ever promoted) all that take traffic are kept.
    """
    if kept.promoted is None or kept.revision(kept.promoted) is None:
        return kept
    warm = {revision.name for revision in mounted.revisions} if mounted else set()
    revisions = tuple(r for r in kept.revisions if r.name == kept.promoted or r.name in warm)
    traffic = (TrafficTarget(revision=kept.promoted, weight=FULL_WEIGHT),)
    return kept.model_copy(update={"revisions": revisions, "traffic": traffic, "shadow": None})


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file so that after a crash either the old or the new content is there, whole. Blocking."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check_schema(assignment: Assignment) -> None:
    if assignment.schema_version != SCHEMA_VERSION:
        raise AssignmentRefusedError(
            f"schema version {assignment.schema_version} is not spoken here; expected {SCHEMA_VERSION}"
        )


def _content(assignment: Assignment) -> Assignment:
    return assignment.model_copy(update={"pod_uid": None})


def _shown(assignment: Assignment) -> str:
    return f"{assignment.resource.kind.value} {assignment.resource.namespace}/{assignment.resource.name}"


def _numbers(generation: Generation) -> str:
    return f"{generation.transitions}.{generation.sequence}"
