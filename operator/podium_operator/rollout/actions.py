"""What the planner can ask for. `perform` carries each out with the preconditions that it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from podium_crds.assignment import Assignment
from podium_operator.state import Backends, Facts, KnownRevision, ObservedPod, Pool, Problem


@dataclass(frozen=True, slots=True)
class RecordRevision:
    """Keep the revision as a ControllerRevision, before anything is made from it."""

    revision: KnownRevision
    ordinal: int


@dataclass(frozen=True, slots=True)
class PinDigests:
    """Keep what the first load resolved: every later load must match."""

    revision: KnownRevision
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NoteServed:
    """Keep that the revision has served, so that it is something to go back to."""

    revision: KnownRevision
    at: datetime


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Do not try this revision again until the spec changes or the user asks."""

    revision: KnownRevision
    problem: Problem
    retry_token: str
    judged_under: str
    """rollout.strategy: under another one, a pod's refusal need not be the end."""


@dataclass(frozen=True, slots=True)
class Release:
    """End the quarantine."""

    revision: KnownRevision


@dataclass(frozen=True, slots=True)
class WriteAssignment:
    """Write the pool's ConfigMap: what a starting pod comes up at. Under the resourceVersion seen, if it exists."""

    pool: str
    ordinal: int
    assignment: Assignment
    promoted_at: datetime
    resource_version: str | None


@dataclass(frozen=True, slots=True)
class CreatePool:
    """Make the Deployment, rendered from this revision. Its ConfigMap exists."""

    pool: str
    ordinal: int
    revision: KnownRevision
    replicas: int


@dataclass(frozen=True, slots=True)
class ScalePool:
    """Set the replicas of a pool under the resourceVersion seen."""

    pool: Pool
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take back the pods of a surge that no node takes, and keep when that was. Under the resourceVersion seen."""

    pool: Pool
    replicas: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Push:
    """Hand a pod its assignment now. The pod refuses it where it holds a newer one or is another pod."""

    pod: ObservedPod
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class DeletePool:
    """Delete an empty pool's Deployment and ConfigMap, under the UID and resourceVersion seen."""

    pool: Pool


@dataclass(frozen=True, slots=True)
class PruneRevision:
    """Delete a ControllerRevision that nothing refers to."""

    revision: KnownRevision


Action = (
    RecordRevision
    | PinDigests
    | NoteServed
    | Quarantine
    | Release
    | WriteAssignment
    | CreatePool
    | ScalePool
    | Withdraw
    | Push
    | DeletePool
    | PruneRevision
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One pass's decision. `requeue_after_s` None: nothing is waited for but events and the resync."""

    facts: Facts
    actions: tuple[Action, ...] = ()
    requeue_after_s: float | None = None
    backends: Backends | None = None
    """How the HTTPRoute should divide requests, where one is asked for; None: as it does."""
    pool_services: frozenset[str] = frozenset()
    """Pools that need a Service of their own."""
    drops_pool_services: bool = False
    """Whether Services of other pools may go: no Gateway sends anything there."""
