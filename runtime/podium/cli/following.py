"""Files → what is served: applied at the start, and again whenever their content changes.

Without a cluster there is one process and no second pod, so there are two ways to a new version. In place: it loads
beside the old one and takes over. With a gap, where the resource allows that (`rollout.allowRecreate`) and there is no
room for both, or where it asks for it (`strategy: Recreate`): the old one answers what it has begun and ends first.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import typer

from podium.cli.local_files import compile_texts, explain, read_texts
from podium.serving.revisions.lifecycle import HostedRevision, loads_like
from podium.serving.revisions.resident import Resident
from podium.wiring import Runtime
from podium_crds.assignment import Assignment, ResourceRef
from podium_crds.errors import CrdsError
from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutSpec, RolloutStrategy

POLL_S = 0.25


class Follower:
    """Applies files to a runtime. Call `look` after every change of state there."""

    def __init__(self, runtime: Runtime, paths: tuple[Path, ...], texts: Mapping[Path, str]) -> None:
        self._runtime = runtime
        self._paths = paths
        self._texts = dict(texts)
        self._sequence = 0
        self._served: dict[ResourceRef, Assignment] = {}
        self._rollouts: Mapping[ResourceRef, RolloutSpec] = {}

    async def follow(self) -> None:
        """Looks at the files until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                texts = await asyncio.to_thread(read_texts, self._paths)
            except CrdsError:
                continue  # an editor replaces a file in two steps; the next look finds it
            if texts != self._texts:
                self._texts = texts
                typer.echo("files changed")
                self.apply()

    def apply(self) -> None:
        """Takes on what the files say; on an error says why, and goes on serving as before."""
        self._sequence += 1
        try:
            spec = compile_texts(self._texts)
            assignments = spec.assignments(self._sequence)
        except CrdsError as error:
            for line in explain(error):
                typer.echo(f"error: {line}", err=True)
            typer.echo("nothing was changed; still serving as before", err=True)
            return
        for name in spec.guarded if self._runtime.settings.api_keys_path is None else ():
            typer.echo(f"warning: {name} asks for API keys, and anybody may ask it here: give --api-key-file", err=True)
        gone = self._served.keys() - {assignment.resource for assignment in assignments}
        self._rollouts = spec.rollouts
        self._served = {assignment.resource: assignment for assignment in assignments}
        for assignment in assignments:
            self._take_on(assignment)
        for resource in gone:
            typer.echo(f"{resource.name}: removed")
            self._runtime.removals.add(asyncio.create_task(self._runtime.residents.remove(resource)))

    def look(self) -> None:
        """Gives up what serves where its successor found no room beside it, and the resource allows the gap."""
        for resident in self._runtime.residents:
            assignment, rollout = self._served.get(resident.resource), self._rollouts.get(resident.resource)
            if assignment is None or rollout is None or not rollout.allow_recreate or resident.is_making_room:
                continue
            old = resident.active
            if rollout.strategy is RolloutStrategy.AUTO and old is not None and _found_no_room(resident, assignment):
                _say_gap(resident, old, "there is no room for both")
                self._runtime.residents.recreate(assignment)

    def _take_on(self, assignment: Assignment) -> None:
        resident = next((r for r in self._runtime.residents if r.resource == assignment.resource), None)
        old = resident.active if resident is not None else None
        recreates = self._rollouts[assignment.resource].strategy is RolloutStrategy.RECREATE
        if resident is None or old is None or not recreates or _loads_nothing(old, assignment):
            self._runtime.residents.apply(assignment)
            return
        _say_gap(resident, old, "strategy Recreate")
        self._runtime.residents.recreate(assignment)


def _loads_nothing(old: HostedRevision, assignment: Assignment) -> bool:
    return all(loads_like(old.spec) == loads_like(revision) for revision in assignment.revisions)


def _found_no_room(resident: Resident, assignment: Assignment) -> bool:
    return any(
        hosted.failure is not None
        and hosted.failure.reason is Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP
        and hosted.name == assignment.promoted
        and hosted is not resident.active
        for hosted in resident.hosted
    )


def _say_gap(resident: Resident, old: HostedRevision, why: str) -> None:
    name = resident.resource.name
    typer.echo(f"{name}: {why}: version {old.spec.version} ends first, and {name} answers 503 until the next is ready")
