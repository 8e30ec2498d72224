"""Facts and observations → the whole status, bounded in size."""

from dataclasses import dataclass
from datetime import datetime

from podium_crds.assignment import LOADED_STATES, ResourceKind, RevisionReport, RevisionState
from podium_crds.base import json_bytes
from podium_crds.rollout import RolloutStrategy
from podium_crds.status import (
    MAX_REVISIONS,
    Endpoint,
    LastFailure,
    LoadProgress,
    ResolvedStrategy,
    RevisionStatus,
    ServingStatus,
)
from podium_operator.state import KnownRevision, Observed, ObservedPod, Owner, Problem
from podium_operator.status.conditions import Judgement, conditions
from podium_operator.status.shares import share
from podium_operator.times import rfc3339

MAX_STATUS_BYTES = 32 * 1024
_ORDER = tuple(RevisionState)
_PROGRESS_STEPS = 20
_PROGRESS_GRAIN = 64 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """The resource that the status is of."""

    owner: Owner
    url: str
    selector: str
    replicas: int
    target: KnownRevision | None
    """None: the spec gives no revision."""
    grpc_url: str | None = None
    """None: gRPC is not asked for."""


def rollup(
    subject: Subject, observed: Observed, judgement: Judgement, previous: ServingStatus, now: datetime
) -> ServingStatus:
    """The status of this pass. Equal to `previous` where nothing changed that is worth a write."""
    pods = [pod for pool in observed.pools for pod in pool.live_pods]
    facts = judgement.facts
    target = subject.target.name if subject.target else None
    status = ServingStatus(
        observed_generation=judgement.generation,
        replicas=min(len(pods), subject.replicas),
        ready_replicas=sum(pod.ready for pod in pods),
        updated_replicas=sum(_state(pod, target) is RevisionState.ACTIVE for pod in pods) if target else 0,
        available_replicas=facts.routable,
        selector=subject.selector,
        url=subject.url,
        endpoints=endpoints(subject),
        conditions=conditions(judgement, previous.conditions, now),
        current_revision=facts.current,
        update_revision=target or previous.update_revision,
        strategy=facts.strategy or ResolvedStrategy(resolved=RolloutStrategy.AUTO, reason="nothing has changed yet"),
        plan=facts.plan,
        canary=facts.canary,
        revisions=_revisions(subject, observed, previous, now),
    )
    return _bounded(status)


def endpoints(subject: Subject) -> tuple[Endpoint, ...]:
    """Every way to reach the resource."""
    resource = subject.owner.resource
    oip = Endpoint(name="oip", url=f"{subject.url}/v2/models/{resource.name}/infer")
    if resource.kind is ResourceKind.PIPELINE:
        own = Endpoint(name="run", url=f"{subject.url}/v1/pipelines/{resource.name}:run")
    else:
        own = Endpoint(name="predict", url=f"{subject.url}/v1/models/{resource.name}:predict")
    grpc = () if subject.grpc_url is None else (Endpoint(name="grpc", url=subject.grpc_url),)
    return (own, oip, *grpc)


def loaded(observed: Observed, revision: str) -> bool:
    """Whether some pod holds the revision loaded."""
    return any(_state(pod, revision) in LOADED_STATES for pool in observed.pools for pod in pool.live_pods)


def _state(pod: ObservedPod, revision: str | None) -> RevisionState | None:
    held = pod.holds(revision) if revision else None
    return held.state if held else None


def _revisions(
    subject: Subject, observed: Observed, previous: ServingStatus, now: datetime
) -> tuple[RevisionStatus, ...]:
    known = dict(observed.revisions)
    newest = sorted(known.values(), key=lambda revision: (-revision.ordinal, revision.name))
    if subject.target is not None:
        # A target gone back to is not the newest record, and is what people look for first.
        newest.sort(key=lambda revision: revision.name != subject.target.name if subject.target else False)
    before = {row.name: row for row in previous.revisions}
    rows = [_row(revision, observed, before.get(revision.name), now) for revision in newest]
    return tuple(row for row in rows if row is not None)[:MAX_REVISIONS]


def _row(
    known: KnownRevision, observed: Observed, before: RevisionStatus | None, now: datetime
) -> RevisionStatus | None:
    """A live or failed revision's row; None for one that is only history."""
    pods = [pod for pool in observed.pools for pod in pool.live_pods]
    held = [report for pod in pods if (report := pod.holds(known.name)) is not None]
    if not held and known.quarantine is None:
        return None
    failed = known.quarantine is not None or any(report.state is RevisionState.FAILED for report in held)
    state = RevisionState.FAILED if failed else min((report.state for report in held), key=_ORDER.index)
    same = before is not None and before.state is state
    return RevisionStatus(
        name=known.name,
        version=known.record.version,
        state=state,
        replicas=len(held),
        ready_replicas=sum(report.state in LOADED_STATES for report in held),
        traffic_percent=share(known.name, observed, before.traffic_percent if before else None),
        start_time=rfc3339(known.started) if known.started else None,
        last_transition_time=before.last_transition_time if same and before else rfc3339(now),
        progress=_progress(held),
        last_failure=_failure(known.quarantine, held, before),
    )


def _progress(held: list[RevisionReport]) -> LoadProgress | None:
    """Bytes over all loading pods, in coarse steps so that a load costs a bounded number of writes."""
    fetching = [report.progress for report in held if report.state in (RevisionState.FETCHING, RevisionState.LOADING)]
    if not fetching:
        return None
    totals = [progress.bytes_total for progress in fetching]
    total = sum(each or 0 for each in totals) if None not in totals else None
    done = sum(progress.bytes_done for progress in fetching)
    grain = max(1, total // _PROGRESS_STEPS) if total else _PROGRESS_GRAIN
    return LoadProgress(bytes_done=done - done % grain, bytes_total=total)


def _failure(
    quarantine: Problem | None, held: list[RevisionReport], before: RevisionStatus | None
) -> LastFailure | None:
    if quarantine is not None:
        kept = before.last_failure if before else None
        time = rfc3339(quarantine.time) if quarantine.time else (kept.time if kept else "1970-01-01T00:00:00Z")
        return LastFailure(
            reason=quarantine.reason, message=quarantine.message[:1024], exit_code=quarantine.exit_code, time=time
        )
    failures = [report.last_failure for report in held if report.last_failure is not None]
    if not failures:
        return None
    last = max(failures, key=lambda failure: failure.time)
    return LastFailure(reason=last.reason, message=last.message, exit_code=last.exit_code, time=last.time)


def _bounded(status: ServingStatus) -> ServingStatus:
    """The status with its oldest rows left out until it fits."""
    while json_bytes(status.wire()) > MAX_STATUS_BYTES and status.revisions:
        status = status.model_copy(update={"revisions": status.revisions[:-1]})
    return status
