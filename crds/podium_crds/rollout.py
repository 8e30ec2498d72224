"""How a change of the resource reaches its pods. Nothing here is part of a revision's identity."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from podium_crds.base import PositiveSeconds, Rule, Ruled, Seconds


class RolloutStrategy(StrEnum):
    """How the serving revision is replaced."""

    AUTO = "Auto"
    IN_PLACE = "InPlace"
    SURGE = "Surge"
    RECREATE = "Recreate"


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
    )
