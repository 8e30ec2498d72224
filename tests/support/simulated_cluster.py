"""A world for the planner alone: Deployments make pods, pods load revisions, mounts lag. No I/O, its own clock.

It keeps the rules of the real parts that plans depend on: resourceVersion preconditions, the order in which a
ReplicaSet removes pods, a runtime that takes traffic only with what is ready and lets go of what it is told to.
`apply` checks the invariants that must hold at the moment of each action.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tests.support.builders import START
from tests.support.simulated_gateway import SimulatedGateway
from tests.support.simulated_pods import SimPod

from podium_crds.assignment import Assignment
from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutStrategy
from podium_operator.rollout.actions import (
    Action,
    CreatePool,
    DeletePool,
    NoteServed,
    PinDigests,
    PruneRevision,
    Push,
    Quarantine,
    RecordRevision,
    Release,
    ScalePool,
    Withdraw,
    WriteAssignment,
)
from podium_operator.rollout.capacity import gpus_per_pod
from podium_operator.rollout.planner import plan
from podium_operator.state import (
    Desired,
    Facts,
    KnownRevision,
    Measurement,
    NodeCapacity,
    Observed,
    ObservedPod,
    Pool,
    PoolStamp,
)

START_S = 2
MOUNT_LAG_S = 20
DRAIN_S = 5


class PreconditionFailedError(Exception):
    """As the API server's 409."""


@dataclass
class SimPool:
    """A Deployment and its ConfigMap."""

    ordinal: int
    name: str
    stamp: PoolStamp | None = None
    gpus: int = 0
    uid: str = ""
    version: int = 0
    replicas: int = 0
    assignment: Assignment | None = None
    assignment_version: int = 0
    promoted_at: datetime | None = None
    withdrawn_at: datetime | None = None


class SimulatedCluster:
    """The world. `fails`: revisions that never load, by name."""

    def __init__(self, *, gpus: int | None = None) -> None:
        self.now = START
        self.gpus = gpus
        """GPUs of the only node; None: no GPU anywhere and room for everything."""
        self.fails: set[str] = set()
        self.fails_by: dict[str, Reason] = {}
        """Why those of them fail that do not by LoadFailed."""
        self.only_alone: set[str] = set()
        """Revisions that have no room beside another in one pod."""
        self.crashes: set[str] = set()
        """Revisions whose workers keep dying once they serve."""
        self.differs: set[str] = set()
        """Revisions that answer otherwise than the one before."""
        self.measured: Measurement | None = None
        """What Prometheus says."""
        self.cordoned = False
        self.crowded = False
        """Whether no node takes another pod, whatever it asks for."""
        self.gateway: SimulatedGateway | None = None
        self.pods: dict[str, SimPod] = {}
        self.pools: dict[int, SimPool] = {}
        self.revisions: dict[str, KnownRevision] = {}
        self.tried: dict[str, set[str]] = {}
        """revision → pods that ever began to load it."""
        self.log: list[str] = []
        self._count = 0

    # What the operator sees

    def observed(self) -> Observed:
        """The world as `observe` would give it."""
        nodes = (
            (NodeCapacity("node", schedulable=not self.cordoned, gpus=self.gpus),) if self.gpus is not None else None
        )
        pools = tuple(self._observed_pool(pool) for _, pool in sorted(self.pools.items()))
        return Observed(
            pools=pools,
            revisions=dict(self.revisions),
            nodes=nodes,
            route=self.gateway.observed(self.now) if self.gateway is not None else None,
            measured=self.measured,
        )

    def _observed_pool(self, pool: SimPool) -> Pool:
        pods = sorted((pod for pod in self.pods.values() if pod.pool == pool.name), key=lambda pod: pod.name)
        return Pool(
            ordinal=pool.ordinal,
            name=pool.name,
            stamp=pool.stamp,
            uid=pool.uid,
            resource_version=str(pool.version),
            replicas=pool.replicas,
            assignment=pool.assignment,
            assignment_uid=pool.uid or "cm",
            assignment_resource_version=str(pool.assignment_version) if pool.assignment else "",
            promoted_at=pool.promoted_at,
            withdrawn_at=pool.withdrawn_at,
            pods=tuple(self._observed_pod(pod) for pod in pods),
        )

    def _observed_pod(self, pod: SimPod) -> ObservedPod:
        reported = pod.running_since is not None and pod.terminating_since is None
        return ObservedPod(
            name=pod.name,
            uid=pod.uid,
            ip="10.0.0.1",
            node=pod.node,
            gpus=pod.gpus,
            created=pod.created,
            running_since=pod.running_since,
            ready_since=pod.ready_since if pod.ready else None,
            endpoint_ready=pod.ready,
            pool_endpoint_ready=pod.ready and self.gateway is not None and pod.pool in self.gateway.services,
            terminating=pod.terminating_since is not None,
            restarts=pod.restarts,
            unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu." if pod.node is None else None,
            cordoned=self.cordoned and pod.node is not None,
            report=pod.report() if reported and pod.reachable else None,
            unreachable=None if pod.reachable else "no answer",
        )

    # What the operator does

    def step(self, desired: Desired, *, crash_after: int | None = None) -> Facts:
        """One pass of an operator that dies after so many actions, if it is told to."""
        decided = plan(self.observed(), desired, self.now)
        if self.gateway is not None:
            self.gateway.take(decided, self.now)
        for action in decided.actions[:crash_after]:
            try:
                self.apply(action, desired)
            except PreconditionFailedError:
                break
        return decided.facts

    def apply(self, action: Action, desired: Desired) -> None:
        """Carry out one action, checking what must hold at that moment."""
        self.log.append(f"{(self.now - START).total_seconds():g}s {_described(action)}")
        match action:
            case RecordRevision(revision, ordinal):
                assert revision.name not in self.revisions, "a record is never overwritten"
                self.revisions[revision.name] = replace(
                    revision, uid=f"uid-{revision.name}", resource_version="1", ordinal=ordinal, started=self.now
                )
            case PinDigests(revision, digests):
                record = revision.record.with_digests(digests)
                self.revisions[revision.name] = replace(self.revisions[revision.name], record=record)
            case NoteServed(revision, at):
                self.revisions[revision.name] = replace(self.revisions[revision.name], served_at=at)
            case Quarantine(revision, problem, retry_token, judged_under):
                found = self.revisions[revision.name]
                self.revisions[revision.name] = replace(
                    found, quarantine=problem, retry_token=retry_token, judged_under=judged_under, served_at=None
                )
            case Release(revision):
                self.revisions[revision.name] = replace(self.revisions[revision.name], quarantine=None)
            case WriteAssignment():
                self._write(action)
            case CreatePool(name, ordinal, revision, replicas):
                self._create(name, ordinal, revision, replicas)
            case ScalePool(pool, replicas):
                self._scale(pool, replicas, desired)
            case Withdraw(pool, replicas, at):
                assert all(pod.node is not None for pod in self._pods_of(self.pools[pool.ordinal])[:replicas])
                self.pools[pool.ordinal].withdrawn_at = at
                self._scale(pool, replicas, desired)
            case Push(pod, assignment):
                self._push(pod, assignment)
            case DeletePool(pool):
                assert not any(pod.pool == pool.name for pod in self.pods.values()), "a pool with pods is never deleted"
                del self.pools[pool.ordinal]
            case PruneRevision(revision):
                named = {r.name for p in self.pools.values() if p.assignment for r in p.assignment.revisions}
                assert revision.name not in named, "a record in use is never pruned"
                del self.revisions[revision.name]

    def _write(self, action: WriteAssignment) -> None:
        for revision in action.assignment.revisions:
            assert revision.name in self.revisions, "only what is recorded is assigned"
        assert action.assignment.shadow is None, "copies are asked of pods that run, never of those that start"
        pool = self.pools.get(action.ordinal)
        if pool is None:
            pool = self.pools[action.ordinal] = SimPool(action.ordinal, action.pool)
        elif pool.assignment is not None and action.resource_version != str(pool.assignment_version):
            raise PreconditionFailedError
        if pool.assignment is not None:
            assert action.assignment.generation > pool.assignment.generation, "generations only rise"
        pool.assignment, pool.promoted_at = action.assignment, action.promoted_at
        pool.assignment_version += 1
        for pod in self._pods_of(pool):
            pod.mounts.append((self.now + timedelta(seconds=MOUNT_LAG_S), action.assignment))

    def _create(self, name: str, ordinal: int, revision: KnownRevision, replicas: int) -> None:
        pool = self.pools.get(ordinal)
        assert pool is not None, "the ConfigMap is there before the pods"
        assert pool.assignment is not None, "the ConfigMap is there before the pods"
        if pool.stamp is not None:
            raise PreconditionFailedError
        pool.stamp = PoolStamp(revision.record.hashes.shape, revision.record.template_version, revision.record.image)
        pool.gpus = gpus_per_pod(revision.record)
        pool.uid, pool.replicas = f"uid-{name}-{self._next()}", replicas
        self._reconcile_deployments()

    def _scale(self, seen: Pool, replicas: int, desired: Desired) -> None:
        pool = self.pools[seen.ordinal]
        if seen.resource_version != str(pool.version):
            raise PreconditionFailedError
        before = self.routable(desired)
        pool.replicas = replicas
        pool.version += 1
        self._reconcile_deployments()
        declared_gap = desired.chosen is not None and desired.chosen.resolved is RolloutStrategy.RECREATE
        least = 0 if declared_gap else min(before, desired.replicas - desired.rollout.max_unavailable)
        assert self.routable(desired) >= least, f"capacity fell to {self.routable(desired)}, at least {least} is kept"

    def _push(self, seen: ObservedPod, assignment: Assignment) -> None:
        pod = self.pods.get(seen.name)
        if pod is None or pod.uid != seen.uid or not pod.reachable or pod.running_since is None:
            return
        pool = next(pool for pool in self.pools.values() if pool.name == pod.pool)
        assert pool.assignment is not None, "pods are pushed only what a ConfigMap stands behind"
        assert assignment.promoted == pool.assignment.promoted, "the ConfigMap promotes before any pod is told to"
        if pod.applied is not None and assignment.generation < pod.applied.generation:
            return
        pod.applied = assignment
        self._settle(pod)

    # What happens by itself

    def tick(self, seconds: int = 1) -> None:
        """Time passes, a second at a time."""
        for _ in range(seconds):
            self.now += timedelta(seconds=1)
            self._reconcile_deployments()
            for pod in list(self.pods.values()):
                self._live(pod)

    def _live(self, pod: SimPod) -> None:
        if pod.terminating_since is not None:
            if self.now - pod.terminating_since >= timedelta(seconds=DRAIN_S):
                del self.pods[pod.name]
            return
        if pod.node is None:
            self._schedule(pod)
            return
        if pod.running_since is None:
            if self.now - pod.created >= timedelta(seconds=START_S):
                self._start(pod)
            return
        for at, assignment in list(pod.mounts):
            if at <= self.now:
                pod.mounted = assignment
                pod.mounts.remove((at, assignment))
                if pod.applied is None or assignment.generation > pod.applied.generation:
                    pod.applied = assignment
        self._settle(pod)

    def _schedule(self, pod: SimPod) -> None:
        if self.crowded or (self.cordoned and self.gpus is not None):
            return
        used = sum(other.gpus for other in self.pods.values() if other.node is not None)
        if self.gpus is None or used + pod.gpus <= self.gpus:
            pod.node = "node"

    def _start(self, pod: SimPod) -> None:
        pool = next(pool for pool in self.pools.values() if pool.name == pod.pool)
        pod.running_since = self.now
        pod.mounted = pod.mounted or pool.assignment
        if pod.applied is not None and pod.mounted is not None and pod.applied.generation > pod.mounted.generation:
            kept = {pod.applied.promoted} | {revision.name for revision in pod.mounted.revisions}
            revisions = tuple(r for r in pod.applied.revisions if r.name in kept)
            pod.applied = pod.applied.model_copy(update={"revisions": revisions})
        else:
            pod.applied = pod.mounted
        self._settle(pod)

    def _settle(self, pod: SimPod) -> None:
        fails = dict.fromkeys(self.fails, Reason.LOAD_FAILED) | self.fails_by
        for name in pod.settle(self.now, fails, self.crashes, self.only_alone):
            self.tried.setdefault(name, set()).add(pod.name)

    def _reconcile_deployments(self) -> None:
        for pool in self.pools.values():
            if pool.stamp is None:
                continue
            pods = [pod for pod in self._pods_of(pool) if pod.terminating_since is None]
            for _ in range(pool.replicas - len(pods)):
                number = self._next()
                name = f"{pool.name}-{number:03d}"
                self.pods[name] = SimPod(name, f"uid-{name}", pool.name, self.now, pool.gpus)
                self._schedule(self.pods[name])
            # As a ReplicaSet ranks: unscheduled, then unready, then the youngest.
            pods.sort(key=lambda pod: (pod.node is not None, pod.ready, -(pod.ready_since or self.now).timestamp()))
            for pod in pods[: max(0, len(pods) - pool.replicas)]:
                self._terminate(pod)

    # What others do

    def kill(self, pod: SimPod) -> None:
        """A pod is deleted from outside; its Deployment makes another."""
        self._terminate(pod)

    def restart(self, pod: SimPod) -> None:
        """Its container ends and starts again: memory is gone, the durable assignment and the mount are there."""
        pod.restart(self.now)

    def _terminate(self, pod: SimPod) -> None:
        pod.terminating_since = self.now
        if pod.node is None:
            del self.pods[pod.name]

    def answer(self, requests: int, *, failing: str | None = None, slow: str | None = None) -> None:
        """Every pod answers so many requests by its shares, each in 10 ms; those of `slow` take 100 ms. Copies of what
        others answer go to the candidate as its policy says; those of `failing` have no answer."""
        for pod in self.pods.values():
            pod.copy(requests, fails=failing, differs=self.differs)
            pod.answer(requests, fails=failing, slow=slow)

    # Truths for assertions

    def routable(self, desired: Desired) -> int:
        """Pods that are capacity, by the rules of rollouts."""
        wait = timedelta(seconds=max(desired.rollout.propagation_seconds, desired.rollout.min_ready_seconds))
        return sum(
            pod.ready and pod.ready_since is not None and pod.ready_since + wait <= self.now
            for pod in self.pods.values()
        )

    def serving(self) -> list[str]:
        """The active revision of each ready pod."""
        return sorted(pod.active for pod in self.pods.values() if pod.ready and pod.active is not None)

    def live_revisions(self) -> set[str]:
        """Revisions in any pod that is not on its way out."""
        return {name for pod in self.pods.values() if pod.terminating_since is None for name in pod.held}

    def _pods_of(self, pool: SimPool) -> list[SimPod]:
        return [pod for pod in self.pods.values() if pod.pool == pool.name]

    def _next(self) -> int:
        self._count += 1
        return self._count


def _described(action: Action) -> str:
    match action:
        case Push(pod, assignment):
            names = ",".join(r.name[-4:] for r in assignment.revisions)
            return f"Push {pod.name} [{names}] promoted {str(assignment.promoted)[-4:]}"
        case WriteAssignment(pool, _, assignment):
            names = ",".join(r.name[-4:] for r in assignment.revisions)
            return f"WriteAssignment {pool} [{names}]"
        case ScalePool(pool, replicas):
            return f"ScalePool {pool.name} {pool.replicas}->{replicas}"
        case CreatePool(pool, _, revision, replicas):
            return f"CreatePool {pool} {revision.name} x{replicas}"
        case DeletePool(pool):
            return f"DeletePool {pool.name}"
        case Withdraw(pool, replicas):
            return f"Withdraw {pool.name} {pool.replicas}->{replicas}"
        case _:
            return f"{type(action).__name__} {action.revision.name}"


Until = Callable[[SimulatedCluster, Facts], bool]


def settle(
    world: SimulatedCluster, desired: Desired, *, until: Until | None = None, passes: int = 400, second: int = 1
) -> tuple[Desired, Facts]:
    """Passes, a second apart, until the rollout is complete (or `until` holds); status goes back in as it would live.

    Raises AssertionError with what was done when it does not come to that.
    """
    facts: Facts | None = None
    for _ in range(passes):
        facts = world.step(desired)
        desired = remembered(desired, facts)
        if until(world, facts) if until else facts.complete:
            return desired, facts
        world.tick(second)
    raise AssertionError(f"not settled: {facts}\n" + "\n".join(world.log[-60:]))


def remembered(desired: Desired, facts: Facts) -> Desired:
    """The next pass's view of what this one wrote to status."""
    chosen = facts.strategy if facts.target == desired.target.name else None
    return replace(desired, current=facts.current, chosen=chosen, announced=facts.plan, canary=facts.canary)


def retargeted(old: Desired, new: Desired) -> Desired:
    """The spec changes: what status says stays, but the strategy was of another target."""
    same = old.target.name == new.target.name
    return replace(
        new,
        current=old.current,
        chosen=old.chosen if same else None,
        announced=old.announced if same else None,
        canary=old.canary if same else None,
        generation=old.generation + 1,
        lease_transitions=old.lease_transitions,
    )
