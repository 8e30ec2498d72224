"""One resource in this process: loads what its assignment names, and decides which loaded revision takes traffic.

The rules, in order: a revision takes traffic only when it is ready and its workers are up; what serves goes on serving
until its successor can; a revision is unloaded only once the applied assignment does not name it, no route leads to
it, and its last answer has left.
"""

import asyncio
from collections.abc import Callable

from podium.serving.revisions.lifecycle import HostedRevision
from podium.serving.revisions.outage import Outage
from podium.serving.revisions.routing import Route, Router, Target
from podium.serving.revisions.shadowing import Shadowing
from podium.serving.revisions.shared_groups import SharedGroups
from podium.serving.workers.life import InstanceState
from podium.telemetry.logging import get_logger
from podium_crds.assignment import LOADED_STATES, Assignment, DrainPolicy, ResourceRef, Revision, RevisionState
from podium_crds.reasons import Reason
from podium_crds.shadow import Shadow

log = get_logger(__name__)

FULL_WEIGHT = 100


class Resident:
    """Drives one resource towards its assignment. One event loop's thread; `end` must be awaited."""

    def __init__(
        self,
        resource: ResourceRef,
        groups: SharedGroups,
        router: Router,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self.resource = resource
        self.hosted: list[HostedRevision] = []
        """Everything that is in the pod for this resource, in the order it came."""
        self._groups = groups
        self._router = router
        self._clock = clock
        self._on_change = on_change
        self._turn = asyncio.Semaphore(1)
        self._applied: Assignment | None = None
        self._targets: tuple[tuple[HostedRevision, int], ...] = ()
        self._outages: dict[HostedRevision, Outage] = {}
        self._crash_looping: set[HostedRevision] = set()
        """Revisions whose workers kept dying since the last assignment."""
        self._ending: dict[HostedRevision, asyncio.Task[None]] = {}
        self._shadowing = Shadowing(groups.shadow_bytes, clock)
        self._is_ending = False
        self._making_room: asyncio.Task[None] | None = None
        """Set while what serves ends, so that its successor can be loaded: nothing is loaded or routed meanwhile."""

    @property
    def drain_policy(self) -> DrainPolicy:
        """How this resource's pods end."""
        return self._applied.drain if self._applied else DrainPolicy()

    @property
    def active(self) -> HostedRevision | None:
        """The revision with the largest share of traffic."""
        return max(self._targets, key=lambda target: target[1])[0] if self._targets else None

    @property
    def is_making_room(self) -> bool:
        """Whether what served is ending so that its successor can be loaded."""
        return self._making_room is not None

    def weight(self, hosted: HostedRevision) -> int:
        """Share of traffic that a revision has now."""
        return next((weight for target, weight in self._targets if target is hosted), 0)

    def shadow(self, hosted: HostedRevision) -> Shadow | None:
        """What is copied to a revision now; None: nothing."""
        return self._shadowing.policy_of(hosted)

    def apply(self, assignment: Assignment) -> None:
        """Takes on an assignment; loading and switching follow by themselves."""
        self._applied = assignment
        self._retune()
        self._give_another_chance(assignment)
        self._settle()

    def recreate(self, assignment: Assignment) -> None:
        """As `apply`, for what does not fit beside what serves: that ends first, after its last answer. A declared gap.

        New requests are answered with NotReadyError from now until what the assignment names is ready.
        """
        self._applied = assignment
        if self._making_room is None:
            self._making_room = asyncio.create_task(self._make_room(), name=f"make room {self.resource.name}")

    async def _make_room(self) -> None:
        self._targets = ()
        self._router.publish(Route(self.resource))
        log.warning("recreate_began", resource=self.resource.name)
        try:
            for hosted in tuple(self.hosted):
                if hosted.live is not None and (self._applied is None or not _names(self._applied, hosted)):
                    self._begin_end(hosted)
            self._on_change()
            while self._ending:
                await asyncio.wait(tuple(self._ending.values()))
            await self._groups.gone()
        finally:
            self._making_room = None
        for hosted in self.hosted:
            hosted.try_again()
        self._settle()

    def check_health(self) -> None:
        """Looks at the workers of every loaded revision; call it about once a second."""
        now, grace = self._clock(), self.drain_policy.restart_grace_seconds
        for hosted in self.hosted:
            self._note_crash_loop(hosted)
            if hosted.live is None:
                continue
            outage = self._outages.setdefault(hosted, Outage())
            was_down = outage.exceeds(grace)
            outage.note(now, is_up=_is_up(hosted), grace_s=grace)
            if outage.exceeds(grace) and not was_down:
                log.error("workers_down", resource=self.resource.name, revision=hosted.name, grace_s=grace)
        self._settle()

    def is_ready(self) -> bool:
        """Whether clients may be sent here: something is routed, and not down longer than the grace."""
        grace = self.drain_policy.restart_grace_seconds
        return any(not self._outages.get(hosted, Outage()).exceeds(grace) for hosted, _ in self._targets)

    async def end(self) -> None:
        """Takes the resource out of routing and unloads everything."""
        self._is_ending = True
        if self._making_room is not None:
            self._making_room.cancel()
            await asyncio.wait((self._making_room,))
        self._targets = ()
        self._shadowing.close()
        self._router.withdraw(self.resource)
        for hosted in tuple(self.hosted):
            self._begin_end(hosted)
        if self._ending:
            await asyncio.wait(tuple(self._ending.values()))

    def _retune(self) -> None:
        """Specs that changed under a name without needing other workers: digests, timeouts, batching."""
        for spec in self._applied.revisions if self._applied else ():
            hosted = self._find(spec)
            if hosted is not None and hosted.spec != spec:
                hosted.retune(spec)

    def _settle(self) -> None:
        if self._is_ending or self._applied is None:
            return
        if self._making_room is not None:
            self._on_change()
            return
        self._start_missing(self._applied)
        self._route(self._applied)
        self._copy(self._applied)
        self._end_unnamed(self._applied)
        self._on_change()

    def _start_missing(self, applied: Assignment) -> None:
        weights = {target.revision: target.weight for target in applied.traffic}
        ranked = sorted(applied.revisions, key=lambda spec: (spec.name != applied.promoted, -weights.get(spec.name, 0)))
        for spec in ranked:
            hosted = self._find(spec)
            if hosted is None:
                hosted = HostedRevision(self.resource, spec, self._groups, self._turn, self._settle)
                self.hosted.append(hosted)
                hosted.start()
            hosted.is_wanted_for_serving = spec.name == applied.promoted
            hosted.is_urgent = hosted.is_wanted_for_serving and not self._is_served_without(hosted)
            if hosted.is_urgent:
                hosted.promote()

    def _is_served_without(self, hosted: HostedRevision) -> bool:
        return any(target is not hosted and self._can_serve(target) for target, _ in self._targets)

    def _route(self, applied: Assignment) -> None:
        targets = self._chosen(applied)
        if targets != self._targets:
            self._switch(targets)
        self._router.publish(self._as_route())

    def _copy(self, applied: Assignment) -> None:
        """Copies of requests go to the candidate while it can answer."""
        spec = applied.revision(applied.shadow.revision) if applied.shadow is not None else None
        hosted = self._find(spec) if spec is not None else None
        able = hosted if hosted is not None and self._can_serve(hosted) else None
        self._shadowing.settle(applied.shadow, able, [serving for serving, _ in self._targets])

    def _chosen(self, applied: Assignment) -> tuple[tuple[HostedRevision, int], ...]:
        """Targets and weights by the rules above."""
        if sum(target.weight for target in applied.traffic) != FULL_WEIGHT:
            return ()
        named = {spec.name: self._find(spec) for spec in applied.revisions}
        wanted = [(named.get(target.revision), target.weight) for target in applied.traffic if target.weight]
        able = tuple((hosted, weight) for hosted, weight in wanted if hosted is not None and self._can_serve(hosted))
        if able:
            return able
        serving = tuple((hosted, weight) for hosted, weight in self._targets if self._can_serve(hosted))
        if serving:
            return serving
        for name in dict.fromkeys((applied.promoted, *named)):
            hosted = named.get(name) if name else None
            if hosted is not None and self._can_serve(hosted):
                return ((hosted, FULL_WEIGHT),)
        return self._targets

    def _can_serve(self, hosted: HostedRevision) -> bool:
        return hosted.state in LOADED_STATES and hosted not in self._crash_looping

    def _note_crash_loop(self, hosted: HostedRevision) -> None:
        """From here on its traffic goes to others, if there are any; coming up once more does not give it back."""
        dying = _crash_looping(hosted)
        if hosted.live is None or hosted in self._crash_looping or not dying:
            return
        self._crash_looping.add(hosted)
        whose = f"model {', '.join(dying)}: " if hosted.spec.graph else ""
        hosted.fail(Reason.RUNTIME_CRASH_LOOP, f"{whose}its workers keep dying; see their last lines in the pod's log")
        if hosted.state is RevisionState.READY and self.shadow(hosted) is not None:
            hosted.enter(RevisionState.FAILED)  # no share of traffic is there that could be taken from it

    def _give_another_chance(self, assignment: Assignment) -> None:
        """A new assignment that gives traffic to a revision which had crash-looped means it."""
        for target in assignment.traffic:
            for hosted in tuple(self._crash_looping):
                if hosted.name == target.revision and target.weight:
                    self._crash_looping.discard(hosted)
                    if hosted.live is not None and hosted.state is RevisionState.FAILED:
                        hosted.enter(RevisionState.READY)

    def _switch(self, targets: tuple[tuple[HostedRevision, int], ...]) -> None:
        chosen = [hosted for hosted, _ in targets]
        for hosted, _ in self._targets:
            if hosted not in chosen and hosted.state is RevisionState.ACTIVE:
                hosted.enter(RevisionState.FAILED if hosted in self._crash_looping else RevisionState.READY)
        for hosted in chosen:
            hosted.promote()  # a canary is measured as it would serve
            hosted.enter(RevisionState.ACTIVE)
        self._targets = targets
        # The largest share sets the tuning of workers that revisions share.
        for hosted, _ in sorted(targets, key=lambda target: target[1]):
            hosted.apply_tuning()
        for hosted in chosen:
            if hosted.live is not None:
                hosted.live.counts.restart_comparison()
                hosted.live.shadow.restart()
        shares = {hosted.name: weight for hosted, weight in targets}
        log.info("traffic_switched", resource=self.resource.name, shares=shares)

    def _as_route(self) -> Route:
        targets = tuple(Target(hosted.live, weight) for hosted, weight in self._targets if hosted.live is not None)
        routed = tuple(target.revision for target in targets)
        others = tuple(
            hosted.live
            for hosted in self.hosted
            if hosted.live is not None and hosted.state is RevisionState.READY and hosted.live not in routed
        )
        current = self._router.table.routes.get((self.resource.kind, self.resource.name))
        if current is not None and current.targets == targets and current.loaded == routed + others:
            return current  # keeps its place in the round
        return Route(self.resource, targets, routed + others)

    def _end_unnamed(self, applied: Assignment) -> None:
        for hosted in tuple(self.hosted):
            in_route = any(target is hosted for target, _ in self._targets)
            if not in_route and not _names(applied, hosted):
                self._begin_end(hosted)

    def _begin_end(self, hosted: HostedRevision) -> None:
        if hosted in self._ending:
            return
        if hosted.live is not None:
            hosted.enter(RevisionState.DRAINING)
            self._router.publish(self._as_route()) if not self._is_ending else None
        self._ending[hosted] = asyncio.create_task(self._end_one(hosted), name=f"unload {hosted.name}")

    async def _end_one(self, hosted: HostedRevision) -> None:
        await hosted.end()
        self.hosted.remove(hosted)
        self._outages.pop(hosted, None)
        self._crash_looping.discard(hosted)
        self._ending.pop(hosted, None)
        log.info("revision_unloaded", resource=self.resource.name, revision=hosted.name)
        self._settle()

    def _find(self, spec: Revision) -> HostedRevision | None:
        """The hosted revision of that name and those workers, unless it is already on its way out."""
        for hosted in self.hosted:
            if hosted.fits(spec) and hosted not in self._ending:
                return hosted
        return None


def _names(assignment: Assignment, hosted: HostedRevision) -> bool:
    spec = assignment.revision(hosted.name)
    return spec is not None and hosted.fits(spec)


def _is_up(hosted: HostedRevision) -> bool:
    """Every member has an instance that takes batches."""
    return all(shared.group.stats().instances[InstanceState.READY] for shared in hosted.held.values() if shared.group)


def _crash_looping(hosted: HostedRevision) -> list[str]:
    """Members whose workers keep dying."""
    return sorted(name for name, shared in hosted.held.items() if shared.group and shared.group.stats().crash_looping)
