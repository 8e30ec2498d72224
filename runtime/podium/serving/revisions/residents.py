"""Everything that one process serves: residents by resource, the router, and whether clients may be sent here."""

import asyncio
from collections.abc import Callable, Iterator

from podium.serving.revisions.drain import DrainState
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.resident import Resident
from podium.serving.revisions.routing import Router
from podium.serving.revisions.shared_groups import SharedGroups
from podium_crds.assignment import Assignment, DrainPolicy, ResourceKind, ResourceRef

HEALTH_INTERVAL_S = 0.5


class Residents:
    """The resources of this process. A pod of a cluster has one; `podium serve -f` has one for each resource."""

    def __init__(self, groups: SharedGroups, clock: Callable[[], float]) -> None:
        self.router = Router()
        self.drain = DrainState()
        self.groups = groups
        groups.remotes.find_here = self._model_here
        self.on_change: Callable[[], None] = _nothing
        """Called after every change of state of any resident."""
        self._clock = clock
        self._by_key: dict[tuple[ResourceKind, str], Resident] = {}

    def __iter__(self) -> Iterator[Resident]:
        """All of them, in the order they came."""
        return iter(tuple(self._by_key.values()))

    def loaded(self) -> list[LiveRevision]:
        """Every revision of every resource that can answer, or still does."""
        return [hosted.live for resident in self for hosted in resident.hosted if hosted.live is not None]

    def apply(self, assignment: Assignment) -> Resident:
        """Takes on the assignment of one resource."""
        resource = assignment.resource
        key = (resource.kind, resource.name)
        resident = self._by_key.get(key)
        if resident is None:
            resident = Resident(resource, self.groups, self.router, self._clock, self._changed)
            self._by_key[key] = resident
        resident.apply(assignment)
        return resident

    def recreate(self, assignment: Assignment) -> None:
        """As `apply`, with a gap: what serves the resource ends before anything that the assignment names is loaded."""
        resident = self._by_key.get((assignment.resource.kind, assignment.resource.name))
        if resident is None:
            self.apply(assignment)
        else:
            resident.recreate(assignment)

    async def remove(self, resource: ResourceRef) -> None:
        """Stops serving a resource, after its last answer."""
        resident = self._by_key.pop((resource.kind, resource.name), None)
        if resident is not None:
            await resident.end()

    def is_ready(self) -> bool:
        """Whether every resource can answer, and the pod still wants to be sent clients."""
        if self.drain.is_closing or not self._by_key:
            return False
        return all(resident.is_ready() for resident in self)

    @property
    def drain_policy(self) -> DrainPolicy:
        """The longest of the residents' policies."""
        policies = [resident.drain_policy for resident in self] or [DrainPolicy()]
        return DrainPolicy(
            propagation_seconds=max(policy.propagation_seconds for policy in policies),
            drain_timeout_seconds=max(policy.drain_timeout_seconds for policy in policies),
        )

    def _model_here(self, name: str) -> LiveRevision | None:
        route = self.router.table.routes.get((ResourceKind.MODEL, name))
        return route.next() if route is not None else None

    def _changed(self) -> None:
        self.on_change()

    async def watch_health(self) -> None:
        """Looks at the workers until cancelled."""
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            for resident in self:
                resident.check_health()

    async def end(self) -> None:
        """Unloads everything; waits for it."""
        residents = tuple(self)
        self._by_key.clear()
        await asyncio.gather(*(resident.end() for resident in residents))
        await self.groups.stopped()


def _nothing() -> None:
    """The listener where nobody listens."""
