"""What went wrong with a revision, from reports and pod states. A revision that failed once is quarantined."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from podium_crds.assignment import Failure, RevisionReport, RevisionState
from podium_crds.reasons import Reason
from podium_operator.rollout.capacity import CRASH_RESTARTS, gpus_per_pod
from podium_operator.state import KnownRevision, ObservedPod, Pool, Problem
from podium_operator.times import parse_time

MESSAGE_CHARS = 1024
NO_ROOM = frozenset({Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP, Reason.INSUFFICIENT_GPU})
"""Why a pod does not load a candidate that it might load alone."""


def reported_failure(pods: tuple[ObservedPod, ...], revision: str) -> Problem | None:
    """Why a pod says that it could not load or keep this revision, by the first such pod in name order."""
    for pod in sorted(pods, key=lambda pod: pod.name):
        held = pod.holds(revision)
        if held is not None and pod.report is not None and _has_failed(held, pod.report.promoted):
            return _problem(pod, held)
    return None


def refuses(pod: ObservedPod, revision: KnownRevision) -> bool:
    """Whether the pod has no room for a revision beside what it serves, which says nothing against the revision.

    A pod without any GPU refuses one that needs GPUs by the same reason: other pods of that shape would, too.
    """
    held = pod.holds(revision.name)
    if held is None or held.last_failure is None or pod.report is None:
        return False
    if not any(each.state is RevisionState.ACTIVE and each is not held for each in pod.report.revisions):
        return False
    if held.last_failure.reason is Reason.INSUFFICIENT_GPU and gpus_per_pod(revision.record) == 0:
        return False
    return held.last_failure.reason in NO_ROOM and _has_failed(held, None)


def refusal(pools: Iterable[Pool], revision: KnownRevision) -> Problem | None:
    """What the first pod in name order says that has no room for the revision beside what it serves."""
    found = [
        (pod, held)
        for pool in pools
        for pod in pool.live_pods
        if refuses(pod, revision)
        if (held := pod.holds(revision.name)) is not None
    ]
    return _problem(*min(found, key=lambda each: each[0].name)) if found else None


def refused_for_good(said: Problem) -> Problem:
    """The same, where the spec allows no other way."""
    advice = (
        "; strategy InPlace allows nothing else: set rollout.strategy to Auto or Surge (new pods hold the new revision "
        "alone), or raise what resources.limits gives a pod"
    )
    return replace(said, message=said.message[: MESSAGE_CHARS - len(advice)] + advice)


def _has_failed(held: RevisionReport, promoted: str | None) -> bool:
    """Failed, trying again after a failure, or promoted and relieved of its traffic by the pod itself."""
    if held.state is RevisionState.FAILED:
        return True
    if held.last_failure is None:
        return False
    relieved = held.state is RevisionState.READY and held.name == promoted
    return relieved or held.state in (RevisionState.FETCHING, RevisionState.LOADING, RevisionState.WARMING)


def _problem(pod: ObservedPod, held: RevisionReport) -> Problem:
    failure: Failure | None = held.last_failure
    if failure is None:
        return Problem(Reason.LOAD_FAILED, f"pod {pod.name} reports {held.name} as failed and gives no reason")
    message = f"pod {pod.name}: {failure.message}"[:MESSAGE_CHARS]
    return Problem(failure.reason, message, time=parse_time(failure.time), exit_code=failure.exit_code)


def killed_while_loading(pool: Pool, candidate: KnownRevision) -> Problem | None:
    """A container of the pool that the kernel killed for memory since this candidate's rollout began.

    Where the cgroup's kill takes the front end too, no report can say what happened.
    """
    begun = [time for time in (candidate.started, pool.promoted_at) if time is not None]
    if candidate.started is None:
        return None
    for pod in sorted(pool.live_pods, key=lambda pod: pod.name):
        if pod.oom_killed_at is not None and pod.oom_killed_at >= max(begun):
            message = f"pod {pod.name}: the container was killed for memory while {candidate.name} was loading"
            return Problem(Reason.LOAD_FAILED, message, time=pod.oom_killed_at)
    return None


def stranded(pool: Pool, *, is_new: bool) -> Problem | None:
    """In every pod of the pool the workers of what it serves keep dying, and there is nothing else to serve.

    One such pod alone may be that pod's trouble, or its node's. `is_new`: what it serves need not be down right now:
    workers that keep dying come up again and again.
    """
    known = [(pod, held) for pod in pool.live_pods if (held := pod.holds(pool.promoted or "")) is not None]
    if not known or not all(_keeps_dying(pod, held, is_new=is_new) for pod, held in known):
        return None
    return _problem(*min(known, key=lambda each: each[0].name))


def _keeps_dying(pod: ObservedPod, held: RevisionReport, *, is_new: bool) -> bool:
    """Its routing has nowhere else to go, so the revision stays the active one."""
    failure = held.last_failure
    is_down = is_new or (pod.report is not None and not pod.report.ready)
    has_looped = failure is not None and failure.reason is Reason.RUNTIME_CRASH_LOOP
    return held.state is RevisionState.ACTIVE and is_down and has_looped


def crash_looping(pool: Pool) -> Problem | None:
    """A pod of the pool whose container keeps ending before it is ready."""
    for pod in sorted(pool.live_pods, key=lambda pod: pod.name):
        if not pod.ready and pod.restarts >= CRASH_RESTARTS and (pod.waiting or "").startswith("CrashLoopBackOff"):
            message = f"pod {pod.name}: the container was restarted {pod.restarts} times; {pod.waiting}"
            return Problem(Reason.RUNTIME_CRASH_LOOP, message[:MESSAGE_CHARS])
    return None


def stuck(pool: Pool, now: datetime, schedule_timeout_s: int) -> Problem | None:
    """Why a pod of the pool does not start, where waiting may help: not a failure of the revision."""
    if pool.deployment_problem is not None and len(pool.live_pods) < pool.replicas:
        quota = "quota" in pool.deployment_problem
        reason = Reason.QUOTA_EXCEEDED if quota else Reason.RECONCILE_ERROR
        return Problem(reason, pool.deployment_problem[:MESSAGE_CHARS])
    for pod in sorted(pool.live_pods, key=lambda pod: pod.name):
        if pod.unschedulable is not None and (pod.gpus or pod.waits_for_node_longer_than(schedule_timeout_s, now)):
            reason = Reason.INSUFFICIENT_GPU if pod.gpus else Reason.PROGRESS_DEADLINE_EXCEEDED
            return Problem(reason, f"pod {pod.name} waits for a node: {pod.unschedulable}"[:MESSAGE_CHARS])
        if pod.waiting is not None and not pod.waiting.startswith(("ContainerCreating", "PodInitializing")):
            return Problem(Reason.LOAD_FAILED, f"pod {pod.name}: {pod.waiting}"[:MESSAGE_CHARS])
    return None
