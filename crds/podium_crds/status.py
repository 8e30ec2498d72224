"""What the operator says about a resource: the status of both kinds."""

from typing import Annotated

from pydantic import Field

from podium_crds.assignment import RevisionState
from podium_crds.base import Int32, Int64, KeyedBy, Lenient, Text, Timestamp
from podium_crds.meta import Condition
from podium_crds.rollout import RolloutStrategy

MAX_REVISIONS = 5
"""Revisions that status lists, newest first."""

Name = Annotated[str, Field(max_length=63)]
Percent = Annotated[int, Field(ge=0, le=100)]
Url = Annotated[str, Field(max_length=512)]


class Endpoint(Lenient):
    """One way to reach the model."""

    name: Name
    """What is spoken there: predict, run, oip or grpc."""
    url: Url
    """Where it is spoken."""


class LastFailure(Lenient):
    """The last thing that went wrong with a revision."""

    reason: Annotated[str, Field(max_length=63)]
    """Why, in one word; each has a page in docs/reasons."""
    message: Text = ""
    """Why, for people."""
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    """Exit code of the process that died; negative: the signal."""
    time: Timestamp
    """When."""


class LoadProgress(Lenient):
    """How far a load has come, over all pods that load."""

    bytes_done: Int64 = 0
    """Bytes fetched."""
    bytes_total: Int64 | None = None
    """Bytes to fetch, where the store says."""


class ResolvedStrategy(Lenient):
    """The strategy that the current rollout follows, written before acting."""

    resolved: RolloutStrategy
    """InPlace, Surge or Recreate; Auto while nothing has changed yet."""
    reason: Text = ""
    """Why this one."""


class RolloutPlan(Lenient):
    """What the operator is about to do, or would do if the rollout were not paused."""

    strategy: RolloutStrategy
    """The strategy that would be followed."""
    reason: Text = ""
    """Why this one."""
    changes: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    """What differs between the serving revision and the spec, a line each."""
    traffic_percents: Annotated[tuple[Percent, ...], Field(max_length=32)] = ()
    """Shares of the new revision that will be reached in turn: in a Surge after rounding to whole pods, exactly where
    exposure.gateway.weights lets Gateways make them."""
    gpus_needed: Int32 = 0
    """GPUs needed beyond those in use, for the time of the rollout."""
    memory_bytes_needed: Int64 = 0
    """Memory needed beyond that in use, for the time of the rollout."""
    expected_gap_seconds: Int32 = 0
    """How long no capacity is expected; 0: never."""


class ShadowStatus(Lenient):
    """What copies of requests showed in this step, in round numbers."""

    compared: Int64 = 0
    """Answers that were compared."""
    mismatched: Int64 = 0
    """Of these, answers beyond the tolerance."""
    failed: Int64 = 0
    """Copies that the new revision could not answer."""
    dropped: Int64 = 0
    """Copies for which there was no room or no time, and streams: they say nothing."""
    worst: Annotated[str, Field(max_length=256)] = ""
    """The largest difference."""


class CanaryStatus(Lenient):
    """The step at which the current rollout stands."""

    step: Annotated[int, Field(ge=1, le=11)]
    """Which of spec.rollout.steps, from 1; one above the last while all requests go over."""
    weight: Percent
    """Share of requests that the new revision is to have at this step."""
    start_time: Timestamp
    """When the step was begun."""
    analysis: Text = ""
    """What the analysis of this step says so far."""
    shadow: ShadowStatus | None = None
    """How the answers of the new revision compare, where rollout.analysis.parity asks for it."""


class RevisionStatus(Lenient):
    """One live or recent revision."""

    name: Name
    """Name of its ControllerRevision."""
    version: Name = ""
    """The user's name for it, spec.version."""
    state: RevisionState
    """The least advanced state in any pod, or Failed."""
    replicas: Int32 = 0
    """Pods that hold it."""
    ready_replicas: Int32 = 0
    """Pods that have it loaded, warmed and smoke-tested."""
    traffic_percent: Percent = 0
    """Share of new requests that it answers: by the weights of the HTTPRoute where exposure.gateway.weights gives some,
    else by the pods."""
    start_time: Timestamp | None = None
    """When its rollout began."""
    last_transition_time: Timestamp | None = None
    """When state last changed."""
    progress: LoadProgress | None = None
    """How far its load has come."""
    last_failure: LastFailure | None = None
    """The last thing that went wrong with it."""


class ServingStatus(Lenient):
    """Status of an InferenceModel or InferencePipeline, written by the operator."""

    observed_generation: Int64 = 0
    """The metadata.generation that this status was computed from."""
    replicas: Int32 = 0
    """Pods, without surge and terminating ones."""
    ready_replicas: Int32 = 0
    """Pods that are ready."""
    updated_replicas: Int32 = 0
    """Pods whose serving revision is updateRevision."""
    available_replicas: Int32 = 0
    """Pods that count as serving capacity."""
    selector: Annotated[str, Field(max_length=1024)] = ""
    """Label selector of the pods, for autoscalers."""
    url: Url | None = None
    """Where clients in the cluster reach it."""
    endpoints: Annotated[
        tuple[Endpoint, ...],
        Field(max_length=16),
        KeyedBy("name"),
    ] = ()
    """Every way to reach it."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(max_length=16),
        KeyedBy("type"),
    ] = ()
    """Ready, Available, Progressing, UpToDate, Validated, ArtifactsReady; Routed only where exposure.gateway asks for
    it, Degraded only while abnormal."""
    current_revision: Name | None = None
    """The revision that serves."""
    update_revision: Name | None = None
    """The revision that the spec asks for."""
    strategy: ResolvedStrategy | None = None
    """The strategy that the current rollout follows."""
    plan: RolloutPlan | None = None
    """What the operator is about to do."""
    canary: CanaryStatus | None = None
    """The step of the current rollout, while it has steps to go."""
    revisions: Annotated[
        tuple[RevisionStatus, ...],
        Field(max_length=MAX_REVISIONS),
        KeyedBy("name"),
    ] = ()
    """Live and recent revisions, newest first."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, or None."""
        return next((c for c in self.conditions if c.type == kind), None)
