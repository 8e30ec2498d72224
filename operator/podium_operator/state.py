"""The values that pass between observing, planning, performing and reporting. Frozen, no I/O, no clock.

`Observed` is everything one pass knows, read from the API server and from the pods' reports. `Desired` is what the spec
asks for. The planner turns both into `Facts` (for status) and actions (for `perform`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from podium_crds.assignment import Assignment, Generation, Report, ResourceRef, RevisionReport
from podium_crds.meta import ConditionStatus
from podium_crds.reasons import Reason
from podium_crds.revision import RevisionRecord
from podium_crds.rollout import RolloutSpec
from podium_crds.status import CanaryStatus, ResolvedStrategy, RolloutPlan
from podium_operator.workqueue import Key as Key  # noqa: PLC0414 - the queue's own, told on: one identity everywhere


@dataclass(frozen=True, slots=True)
class Result:
    """How a pass ended. `requeue_after_s` None: only an event brings the key back."""

    requeue_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """The resource that owns every child."""

    resource: ResourceRef
    api_version: str
    uid: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something does not move: a reason of the closed set, and a sentence for people."""

    reason: Reason
    message: str
    time: datetime | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """What is to be said of the HTTPRoute, where one is asked for: the condition Routed."""

    status: ConditionStatus
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Backends:
    """How an HTTPRoute divides requests: by weight, to the Service of all pools and to Services of single ones."""

    service: int = 1
    pools: Mapping[str, int] = field(default_factory=dict)
    """By name of the pool. 0: Gateways know its Service and send nothing there."""


@dataclass(frozen=True, slots=True)
class ObservedRoute:
    """The HTTPRoute as it is now."""

    backends: Backends
    since: datetime | None = None
    """When these backends were written."""
    answered: bool = False
    """Whether every Gateway that has ever answered has done so for the route as it is."""


@dataclass(frozen=True, slots=True)
class KnownRevision:
    """A ControllerRevision, or the one that the spec asks for and nobody has recorded yet."""

    name: str
    record: RevisionRecord
    """With the digests that were pinned since it was recorded."""
    ordinal: int = 0
    """Its `.revision`: newer is higher. 0: not recorded yet."""
    uid: str = ""
    resource_version: str = ""
    quarantine: Problem | None = None
    """Set once it failed: it is not tried again until the spec changes or the user asks."""
    retry_token: str = ""
    """Value of the resource's retry annotation at the time of the quarantine."""
    judged_under: str = ""
    """rollout.strategy at that time."""
    served_at: datetime | None = None
    """When its rollout last was complete; None: it never has been, or has failed since."""
    started: datetime | None = None
    """When it was recorded: the start of its rollout."""

    @property
    def recorded(self) -> bool:
        """True where a ControllerRevision keeps it."""
        return bool(self.uid)


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """One pod of a pool, and what it says."""

    name: str
    uid: str
    ip: str | None = None
    node: str | None = None
    gpus: int = 0
    """GPUs that it holds, or waits for."""
    created: datetime | None = None
    running_since: datetime | None = None
    """When its container last started; None: not running."""
    ready_since: datetime | None = None
    """Since when the pod is Ready without a break; None: not ready."""
    endpoint_ready: bool = False
    """Whether an EndpointSlice of the Service of all pools names it as ready."""
    pool_endpoint_ready: bool = False
    """Whether one of its own pool's Service does, where there is such a Service."""
    terminating: bool = False
    restarts: int = 0
    unschedulable: str | None = None
    """The scheduler's message, where no node takes it."""
    waiting: str | None = None
    """Why the container cannot start, as `Reason: message` of its waiting state."""
    oom_killed_at: datetime | None = None
    """When the kernel last killed its container for memory."""
    cordoned: bool = False
    """Whether its node takes no new pods."""
    report: Report | None = None
    unreachable: str | None = None
    """Why its admin port did not answer; None where it did, or was not asked."""

    @property
    def ready(self) -> bool:
        """Ready by its own readiness probe."""
        return self.ready_since is not None and not self.terminating

    def waits_for_node_longer_than(self, seconds: int, now: datetime) -> bool:
        """Whether no node has taken it for that long."""
        return (
            self.unschedulable is not None
            and self.created is not None
            and now - self.created > timedelta(seconds=seconds)
        )

    @property
    def live(self) -> bool:
        """Running and not about to go: can be given an assignment."""
        return self.running_since is not None and not self.terminating

    def holds(self, revision: str) -> RevisionReport | None:
        """What its report says about that revision, or None."""
        return self.report.revision(revision) if self.report else None


@dataclass(frozen=True, slots=True)
class PoolStamp:
    """What the Deployment of a pool was rendered from: compared, never parsed out of the template."""

    shape_hash: str
    template_version: int
    image: str


@dataclass(frozen=True, slots=True)
class Pool:
    """One Deployment and its assignment ConfigMap. Either may be missing where an operator died between two writes."""

    ordinal: int
    name: str
    stamp: PoolStamp | None = None
    """None: there is no Deployment."""
    uid: str = ""
    resource_version: str = ""
    replicas: int = 0
    deleting: bool = False
    assignment: Assignment | None = None
    """None: there is no ConfigMap, or none that can be read."""
    assignment_uid: str = ""
    assignment_resource_version: str = ""
    promoted_at: datetime | None = None
    pods: tuple[ObservedPod, ...] = ()
    withdrawn_at: datetime | None = None
    """When pods of a surge were last taken back because no node took them."""
    deployment_problem: str | None = None
    """Why the Deployment cannot make pods (a quota, an admission plugin), where it says so."""

    @property
    def promoted(self) -> str | None:
        """The revision that a starting pod of this pool comes up at."""
        return self.assignment.promoted if self.assignment else None

    @property
    def warm(self) -> tuple[str, ...]:
        """Revisions that the ConfigMap keeps beside the promoted one."""
        if self.assignment is None:
            return ()
        return tuple(r.name for r in self.assignment.revisions if r.name != self.assignment.promoted)

    @property
    def live_pods(self) -> tuple[ObservedPod, ...]:
        """Pods that are not about to go."""
        return tuple(pod for pod in self.pods if not pod.terminating)


@dataclass(frozen=True, slots=True)
class Child:
    """A stable child as it is now: enough to tell whether it must be written."""

    kind: str
    name: str
    uid: str
    desired_hash: str | None
    controlled: bool
    """Whether our resource is its controller."""


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """What one node can give."""

    name: str
    schedulable: bool
    gpus: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a Prometheus server answered: a number, or why there is none."""

    value: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything one pass knows about a resource's children."""

    pools: tuple[Pool, ...] = ()
    revisions: Mapping[str, KnownRevision] = field(default_factory=dict)
    children: Mapping[tuple[str, str], Child] = field(default_factory=dict)
    """Service, Secret and PodDisruptionBudget by kind and name."""
    nodes: tuple[NodeCapacity, ...] | None = None
    """None: the operator may not read nodes, so the scheduler alone decides."""
    route: ObservedRoute | None = None
    """The HTTPRoute; None: none is asked for, or there is none."""
    measured: Measurement | None = None
    """The answer to rollout.analysis.prometheus; None where it was not asked."""

    def pool(self, ordinal: int) -> Pool | None:
        """The pool with that ordinal, or None."""
        return next((pool for pool in self.pools if pool.ordinal == ordinal), None)


@dataclass(frozen=True, slots=True)
class Hand:
    """What the user asks of a rollout by annotations of the resource. Each names the revision that it is about, so that
    it says nothing of the next one."""

    promote: str = ""
    """`<revision>`: go on to all traffic; `<revision>/<n>`: go on past step n."""
    abort: str = ""
    """`<revision>`: give up its rollout, unless it is complete."""
    rollback: str = ""
    """`<revision>`: do not serve it."""
    rollback_to: str = ""
    """The revision to serve instead of one that is rolled back; empty: the one before."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What the spec asks for."""

    owner: Owner
    generation: int
    """metadata.generation that this was computed from."""
    target: KnownRevision
    replicas: int
    rollout: RolloutSpec
    retry_token: str = ""
    """The resource's retry annotation: a new value asks to try a quarantined revision again."""
    lease_transitions: int = 0
    current: str | None = None
    """status.currentRevision: the last revision whose rollout completed."""
    chosen: ResolvedStrategy | None = None
    """status.strategy, where it was written for this very target: a rollout keeps the strategy it began with."""
    announced: RolloutPlan | None = None
    """status.plan, where it was written for this very target."""
    canary: CanaryStatus | None = None
    """status.canary, where it was written for this very target."""
    hand: Hand = Hand()
    weighted: bool = False
    """Whether Gateways should give the new revision of a surge exactly the share of its step."""
    rolling_since: datetime | None = None
    """Since when status says that a rollout goes on, if it does."""


class Stage(StrEnum):
    """Where a rollout stands, for status alone: no decision reads it."""

    SETTLED = "Settled"
    ROLLING = "Rolling"
    PAUSED = "Paused"
    BLOCKED = "Blocked"
    FAILED = "Failed"
    SCALED_TO_ZERO = "ScaledToZero"
    INVALID = "Invalid"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the planner found, for status and events."""

    stage: Stage
    target: str
    current: str | None
    """The revision that serves: the last one whose rollout completed, or the one serving now."""
    available: bool
    """Whether anything serves now."""
    complete: bool
    """Whether what serves is what the spec asks for."""
    problem: Problem | None = None
    """Why the rollout is blocked or failed."""
    waiting: str = ""
    """What is waited for, for people."""
    strategy: ResolvedStrategy | None = None
    plan: RolloutPlan | None = None
    canary: CanaryStatus | None = None
    routable: int = 0
    degraded: Problem | None = None


def highest_generation(pools: tuple[Pool, ...]) -> Generation:
    """The highest generation that any ConfigMap names or any pod reports."""
    found = [Generation()]
    for pool in pools:
        if pool.assignment is not None:
            found.append(pool.assignment.generation)
        for pod in pool.pods:
            if pod.report is not None:
                found += [g for g in (pod.report.applied, pod.report.mounted) if g is not None]
    return max(found)
