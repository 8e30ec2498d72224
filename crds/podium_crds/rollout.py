"""How a change of the resource reaches its pods. Nothing here is part of a revision's identity."""

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field

from podium_crds.base import PositiveSeconds, Rule, Ruled, Seconds, Strict
from podium_crds.parity import Parity
from podium_crds.promql import PrometheusCheck


class RolloutStrategy(StrEnum):
    """How the serving revision is replaced."""

    AUTO = "Auto"
    IN_PLACE = "InPlace"
    SURGE = "Surge"
    RECREATE = "Recreate"


class RolloutStep(Strict):
    """A share of traffic that the new revision holds before it gets more."""

    weight: Annotated[int, Field(ge=0, le=99)]
    """Percent of requests that the new revision answers. 100 follows the last step by itself; 0, as the first step,
    gives it copies alone (analysis.parity)."""
    pause_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = None
    """How long this share is held before the next step. Absent: until it is promoted (`podium promote`)."""


class Analysis(Ruled):
    """What the new revision must show at every step, judged from the pods' own counts of both revisions."""

    max_error_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Largest share of its requests that may fail by its fault (5xx)."""
    max_p99_latency_percent: Annotated[int, Field(ge=100, le=10_000)] | None = None
    """Largest p99 latency in percent of that of the revision it replaces, in the same pods at the same time."""
    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Requests that each revision must have answered in a step before it is judged. With fewer the step is held."""
    parity: Parity | None = None
    """How alike the answers of both revisions must be. Absent: they are not compared."""
    prometheus: PrometheusCheck | None = None
    """What a Prometheus server must say at every step with a weight. Absent: none is asked."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.maxErrorPercent) || has(self.maxP99LatencyPercent) || has(self.parity) || "
            "has(self.prometheus)",
            message="the analysis checks nothing: set maxErrorPercent, maxP99LatencyPercent, parity or prometheus, or "
            "leave it out",
            holds=lambda analysis: (
                analysis.max_error_percent is not None
                or analysis.max_p99_latency_percent is not None
                or analysis.parity is not None
                or analysis.prometheus is not None
            ),
        ),
    )


class RolloutSpec(Ruled):
    """How a change reaches the pods: which way, how fast, and how long each part of it may take."""

    strategy: RolloutStrategy = RolloutStrategy.AUTO
    """Auto (resolves to one of the others and says which and why in status), InPlace (load beside the old revision in
    the same pods), Surge (new pods) or Recreate (a declared gap; needs allowRecreate)."""
    allow_recreate: bool = False
    """Whether a gap without serving capacity is acceptable where nothing else fits."""
    max_surge: Annotated[int, Field(ge=0, le=100)] = 1
    """Pods above replicas that a Surge may run at once."""
    max_unavailable: Annotated[int, Field(ge=0, le=100)] = 0
    """Pods below replicas that a rollout may leave without capacity at once."""
    max_parallel_loads: Annotated[int, Field(ge=1, le=100)] = 1
    """Pods that load a new revision at once; the first always loads alone."""
    steps: Annotated[tuple[RolloutStep, ...], Field(max_length=10)] = ()
    """Shares of traffic that a new revision holds in turn before it gets all. None: it gets all once it is loaded."""
    analysis: Analysis | None = None
    """What the new revision must show at every step. A revision that does not is given up, and the old one serves."""
    min_ready_seconds: Seconds = 0
    """How long a new pod must stay ready before it counts as capacity."""
    propagation_seconds: Annotated[int, Field(ge=0, le=600)] = 10
    """How long the cluster takes to notice that an endpoint came or went."""
    progress_deadline_seconds: PositiveSeconds = 1200
    """Without progress for this long, a rollout is reported as ProgressDeadlineExceeded."""
    schedule_timeout_seconds: PositiveSeconds = 300
    """How long a pod may wait for a node before status says what it lacks."""
    load_timeout_seconds: PositiveSeconds = 600
    """How long fetching and loading one member may take."""
    drain_timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = 300
    """How long requests in flight may take to finish before an old revision or pod ends."""
    restart_grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long the workers of a model may stay down before its pod stops being ready."""
    rollback_window_seconds: Seconds = 600
    """How long the previous revision stays loaded after a swap, so that going back is immediate."""
    revision_history_limit: Annotated[int, Field(ge=1, le=10)] = 5
    """How many past revisions are kept as ControllerRevisions."""
    paused: bool = False
    """Whether changes are planned into status but not acted on."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.maxSurge > 0 || self.maxUnavailable > 0",
            message="maxSurge and maxUnavailable are both 0, so no pod could ever be replaced: set maxSurge: 1, or "
            "maxUnavailable: 1 to give up capacity instead",
            holds=lambda rollout: rollout.max_surge > 0 or rollout.max_unavailable > 0,
        ),
        Rule(
            cel="self.strategy != 'Recreate' || self.allowRecreate",
            message="strategy Recreate leaves a gap without serving capacity: also set allowRecreate: true, or use "
            "strategy: Auto",
            holds=lambda rollout: rollout.strategy is not RolloutStrategy.RECREATE or rollout.allow_recreate,
        ),
        Rule(
            cel="!has(self.steps) || (self.steps.map(s, s.weight).isSorted() && "
            "self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1))",
            message="the weights of steps must rise from one step to the next, such as 10, 50",
            holds=lambda rollout: all(before.weight < after.weight for before, after in pairwise(rollout.steps)),
        ),
        Rule(
            cel="!has(self.analysis) || (has(self.steps) && self.steps.size() > 0)",
            message="analysis judges steps, and there are none: add steps, such as [{weight: 10, pauseSeconds: 60}]",
            holds=lambda rollout: rollout.analysis is None or bool(rollout.steps),
        ),
        Rule(
            cel="!has(self.steps) || self.steps.all(s, s.weight > 0) || (has(self.analysis) && "
            "has(self.analysis.parity))",
            message="a step of weight 0 gives the new revision no requests: set analysis.parity so that it gets copies "
            "of them, such as {shadowPercent: 10}, or a weight of 1 at least",
            holds=lambda rollout: (
                all(step.weight for step in rollout.steps)
                or (rollout.analysis is not None and rollout.analysis.parity is not None)
            ),
        ),
    )
