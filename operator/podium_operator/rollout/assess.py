"""What the planner tells status: how far the rollout is, what blocks it, what failed."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutStrategy
from podium_crds.status import CanaryStatus, ResolvedStrategy, RolloutPlan
from podium_operator.rollout import failures
from podium_operator.rollout.analysis import Finding
from podium_operator.rollout.canary import Standing, findings
from podium_operator.rollout.capacity import gpus_per_pod, routable, routable_count, serves, unreachable
from podium_operator.state import Desired, Facts, Observed, Pool, Problem, Stage
from podium_operator.times import parse_time, rfc3339


@dataclass(frozen=True, slots=True)
class Verdict:
    """What this pass decided, as far as status tells it."""

    goal: str
    """The revision that should serve: the target, or what serves instead of it."""
    home: Pool | None = None
    strategy: ResolvedStrategy | None = None
    refusal: Problem | None = None
    """Why the rollout does not begin."""
    failure: Problem | None = None
    """What is wrong with the target, seen in this pass."""
    waiting: str = ""
    plan: RolloutPlan | None = None
    standing: Standing | None = None
    """The step of a rollout in steps."""


def is_new(observed: Observed, desired: Desired, now: datetime) -> bool:
    """Whether the target was promoted within the rollback window."""
    window = timedelta(seconds=desired.rollout.rollback_window_seconds)
    moments = [pool.promoted_at for pool in observed.pools if pool.promoted == desired.target.name]
    return any(moment is not None and now - moment <= window for moment in moments)


def failure(observed: Observed, desired: Desired, now: datetime) -> Problem | None:
    """Why the target cannot serve, from what pods report and how their containers end."""
    target = desired.target
    refusal = failures.refusal(observed.pools, target)
    if refusal is not None and desired.rollout.strategy is RolloutStrategy.IN_PLACE:
        return failures.refused_for_good(refusal)
    # Where another way is left, the strategy is what a refusal speaks against.
    pods = tuple(p for pool in observed.pools for p in pool.live_pods if not failures.refuses(p, target))
    reported = failures.reported_failure(pods, target.name)
    if reported is not None:
        return reported
    if desired.canary is not None and (said := findings(observed, desired)).finding is Finding.FAILED:
        return Problem(Reason.ANALYSIS_FAILED, said.message)
    for pool in observed.pools:
        if pool.promoted == target.name:
            looping = failures.crash_looping(pool) or failures.stranded(pool, is_new=is_new(observed, desired, now))
            if looping is not None:
                return looping
        elif desired.chosen is not None and desired.chosen.resolved is RolloutStrategy.IN_PLACE:
            killed = failures.killed_while_loading(pool, target)
            if killed is not None:
                return killed
    return None


def facts(observed: Observed, desired: Desired, now: datetime, verdict: Verdict) -> Facts:
    """The facts of this pass."""
    pods = [pod for pool in observed.pools for pod in pool.pods]
    complete = _complete(observed, desired, now, verdict)
    problem = None if desired.replicas == 0 else _problem(observed, desired, now, verdict)
    stage = _stage(desired, verdict, problem, complete=complete)
    settled = stage in (Stage.SETTLED, Stage.SCALED_TO_ZERO)
    return Facts(
        stage=stage,
        target=desired.target.name,
        current=_current(observed, desired, verdict, complete=complete),
        available=any(routable(pod, desired.rollout, now) for pod in pods),
        complete=complete,
        problem=None if settled else problem,
        waiting="" if stage is Stage.SCALED_TO_ZERO else verdict.waiting,
        strategy=verdict.strategy,
        plan=None if settled else verdict.plan,
        canary=_canary(desired, verdict, stage),
        routable=sum(routable_count(pool, desired.rollout, now) for pool in observed.pools),
        degraded=problem if settled else None,
    )


def _canary(desired: Desired, verdict: Verdict, stage: Stage) -> CanaryStatus | None:
    """Where the rollout stands: as this pass found, or as status had it while the pass does not look."""
    if stage in (Stage.SETTLED, Stage.SCALED_TO_ZERO, Stage.FAILED):
        return None
    if verdict.standing is not None:
        return verdict.standing.canary
    return desired.canary if desired.rollout.paused else None


def missing(desired: Desired, home: Pool | None, now: datetime) -> str:
    """Which pods are still waited for; empty where none is."""
    target = desired.target.name
    serving = [pod for pod in home.pods if serves(pod, target)] if home is not None else []
    if len(serving) < desired.replicas:
        return f"{len(serving)} of {desired.replicas} pods serve {target}"
    fresh = sum(not routable(pod, desired.rollout, now) for pod in serving)
    return f"routers to know of {fresh} new pods ({desired.rollout.propagation_seconds} s)" if fresh else ""


def _complete(observed: Observed, desired: Desired, now: datetime, verdict: Verdict) -> bool:
    """Whether the target serves alone, and routers know. Once so, losing or adding a pod of it does not undo that."""
    target = desired.target.name
    if verdict.goal != target or verdict.home is None or verdict.home.promoted != target:
        return False
    others = [pool for pool in observed.pools if pool.ordinal != verdict.home.ordinal]
    if any(pool.live_pods or pool.replicas for pool in others):
        return False
    if desired.current == target:
        return True
    if desired.replicas == 0:
        return False  # nothing has shown yet that it works
    bearing = [pod for pod in verdict.home.pods if serves(pod)]
    if not all(serves(pod, target) for pod in bearing):
        return False
    return sum(routable(pod, desired.rollout, now) for pod in bearing) >= desired.replicas


def _problem(observed: Observed, desired: Desired, now: datetime, verdict: Verdict) -> Problem | None:
    """The first of: the target failed, the rollout cannot begin, a pod cannot start, a pod cannot be reached."""
    if desired.target.quarantine is not None:
        return desired.target.quarantine
    if verdict.failure is not None or verdict.refusal is not None:
        return verdict.failure or verdict.refusal
    if verdict.home is not None:
        withdrawn = _withdrawn(verdict.home, desired, now)
        if withdrawn is not None:
            return withdrawn
        stuck = failures.stuck(verdict.home, now, desired.rollout.schedule_timeout_seconds)
        if stuck is not None:
            return stuck
    silent = [pod for pool in observed.pools for pod in unreachable(pool, now)]
    if silent:
        names = ", ".join(sorted(pod.name for pod in silent))
        return Problem(
            Reason.RUNTIME_UNREACHABLE,
            f"the admin port (8081) of {names} does not answer: {silent[0].unreachable}; where NetworkPolicies apply, "
            "add one that lets the operator's pods reach port 8081",
        )
    return None if _complete(observed, desired, now, verdict) else _overdue(observed, desired, now, verdict)


def _withdrawn(home: Pool, desired: Desired, now: datetime) -> Problem | None:
    """The surge whose pods were taken back, until it is tried again."""
    timeout = desired.rollout.schedule_timeout_seconds
    if home.withdrawn_at is None or home.replicas >= desired.replicas or home.live_pods:
        return None
    if now >= home.withdrawn_at + timedelta(seconds=timeout) and home.replicas:
        return None
    gpus = gpus_per_pod(desired.target.record)
    reason = Reason.INSUFFICIENT_GPU if gpus else Reason.PROGRESS_DEADLINE_EXCEEDED
    return Problem(
        reason,
        f"no node took the new pods within {timeout} s (scheduleTimeoutSeconds): they were taken back, the old "
        f"revision serves on, and it is tried again every {timeout} s",
        time=home.withdrawn_at,
    )


def _overdue(observed: Observed, desired: Desired, now: datetime, verdict: Verdict) -> Problem | None:
    """No pod and no revision in one has moved for progressDeadlineSeconds."""
    standing = verdict.standing
    if desired.rollout.paused or (standing is not None and (standing.held or standing.due is not None)):
        return None
    moments = [desired.rolling_since, desired.target.started]
    if desired.canary is not None:
        moments.append(parse_time(desired.canary.start_time))
    for pod in (pod for pool in observed.pools for pod in pool.pods):
        moments += [pod.created, pod.running_since, pod.ready_since]
        if pod.report is not None:
            moments += [parse_time(held.since) for held in pod.report.revisions]
    last = max((moment for moment in moments if moment is not None), default=None)
    if last is None or (now - last).total_seconds() <= desired.rollout.progress_deadline_seconds:
        return None
    if standing is not None and standing.inconclusive:
        return Problem(
            Reason.ANALYSIS_INCONCLUSIVE,
            f"{standing.inconclusive} since {rfc3339(last)}; podium promote goes on without",
        )
    message = f"nothing has moved since {rfc3339(last)}"
    waiting = f"; waiting for {verdict.waiting}" if verdict.waiting else ""
    return Problem(Reason.PROGRESS_DEADLINE_EXCEEDED, message + waiting)


def _stage(desired: Desired, verdict: Verdict, problem: Problem | None, *, complete: bool) -> Stage:
    if desired.replicas == 0:
        return Stage.SCALED_TO_ZERO
    if desired.target.quarantine is None and complete:
        return Stage.SETTLED
    if desired.target.quarantine is not None or verdict.failure is not None:
        return Stage.FAILED
    if verdict.refusal is not None:
        return Stage.BLOCKED
    if desired.rollout.paused and desired.current is not None:
        return Stage.PAUSED
    if verdict.standing is not None and verdict.standing.held:
        return Stage.PAUSED
    return Stage.BLOCKED if problem is not None else Stage.ROLLING


def _current(observed: Observed, desired: Desired, verdict: Verdict, *, complete: bool) -> str | None:
    if complete:
        return desired.target.name
    if verdict.goal != desired.target.name and any(
        serves(p, verdict.goal) for pool in observed.pools for p in pool.pods
    ):
        return verdict.goal
    if desired.current is not None:
        return desired.current
    serving = [pool for pool in observed.pools if any(serves(pod) for pod in pool.pods)]
    return next((pool.promoted for pool in serving if pool.promoted != desired.target.name), None)
