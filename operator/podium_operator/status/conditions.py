"""The conditions of both kinds, as the table in the API documentation has them.

All types are there from the first pass, each with the generation it was judged from; lastTransitionTime moves only with
the status. Routed is there only where gateways are asked for, Degraded only while something is abnormal.
"""

from dataclasses import dataclass
from datetime import datetime

from podium_crds.meta import Condition, ConditionStatus
from podium_crds.reasons import ConditionType, Reason
from podium_operator.state import Facts, Problem, Routed, Stage
from podium_operator.times import rfc3339

MESSAGE_CHARS = 1024
_ARTIFACT_REASONS = (Reason.ARTIFACT_UNAVAILABLE, Reason.ARTIFACT_DIGEST_MISMATCH)


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: ConditionStatus
    reason: Reason
    message: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one pass judged, and the generation that it judged."""

    facts: Facts
    generation: int
    invalid: Problem | None = None
    """Why the spec cannot be used as it is."""
    loaded: bool = False
    """Whether some pod holds the target loaded."""
    retained: bool = False
    """Whether a revision other than the failed target serves."""
    suspended: bool = False
    """Whether the spec asks for no pods by `suspend` rather than by `replicas`."""
    routed: Routed | None = None
    """What is to be said of the HTTPRoute; None: none is asked for."""

    @property
    def rest(self) -> _Verdict:
        """Why nothing should run, where nothing should."""
        if self.suspended:
            return _Verdict(ConditionStatus.FALSE, Reason.SUSPENDED, "spec.suspend is true")
        return _Verdict(ConditionStatus.FALSE, Reason.SCALED_TO_ZERO, "spec.replicas is 0")


def conditions(judgement: Judgement, previous: tuple[Condition, ...], now: datetime) -> tuple[Condition, ...]:
    """The conditions, ordered by importance."""
    verdicts = {
        ConditionType.READY: _ready(judgement),
        ConditionType.AVAILABLE: _available(judgement),
        ConditionType.PROGRESSING: _progressing(judgement),
        ConditionType.UP_TO_DATE: _up_to_date(judgement),
        ConditionType.VALIDATED: _validated(judgement),
        ConditionType.ARTIFACTS_READY: _artifacts(judgement),
    }
    if judgement.routed is not None:
        route = judgement.routed
        verdicts[ConditionType.ROUTED] = _Verdict(route.status, route.reason, route.message)
    if judgement.facts.degraded is not None:
        degraded = judgement.facts.degraded
        verdicts[ConditionType.DEGRADED] = _Verdict(ConditionStatus.TRUE, degraded.reason, degraded.message)
    known = {condition.type: condition for condition in previous}
    return tuple(
        _condition(kind, verdict, known.get(kind), judgement.generation, now) for kind, verdict in verdicts.items()
    )


def _condition(
    kind: ConditionType, verdict: _Verdict, previous: Condition | None, generation: int, now: datetime
) -> Condition:
    since = rfc3339(now)
    if previous is not None and previous.status == verdict.status:
        since = previous.last_transition_time
    return Condition(
        type=kind,
        status=verdict.status,
        reason=verdict.reason,
        message=verdict.message[:MESSAGE_CHARS],
        observed_generation=generation,
        last_transition_time=since,
    )


def _ready(judgement: Judgement) -> _Verdict:
    """Available and UpToDate, at this generation; where it is neither, why the rollout stands as it does."""
    available, current = _available(judgement), _up_to_date(judgement)
    if available.status is ConditionStatus.TRUE and current.status is ConditionStatus.TRUE:
        return _Verdict(ConditionStatus.TRUE, Reason.ROLLOUT_COMPLETE, current.message)
    cause = available if current.status is ConditionStatus.TRUE else _progressing(judgement)
    return _Verdict(ConditionStatus.FALSE, cause.reason, cause.message)


def _available(judgement: Judgement) -> _Verdict:
    facts = judgement.facts
    if facts.stage is Stage.SCALED_TO_ZERO:
        return judgement.rest
    if facts.available:
        return _Verdict(ConditionStatus.TRUE, Reason.ROLLOUT_COMPLETE, "requests are answered")
    problem = judgement.invalid or facts.problem or facts.degraded
    if problem is not None:
        return _Verdict(ConditionStatus.FALSE, problem.reason, problem.message)
    return _Verdict(ConditionStatus.FALSE, Reason.ROLLOUT_IN_PROGRESS, facts.waiting or "no pod is ready yet")


def _progressing(judgement: Judgement) -> _Verdict:
    facts = judgement.facts
    if judgement.invalid is not None:
        return _Verdict(ConditionStatus.FALSE, judgement.invalid.reason, judgement.invalid.message)
    match facts.stage:
        case Stage.SETTLED:
            return _Verdict(ConditionStatus.FALSE, Reason.ROLLOUT_COMPLETE, f"{facts.target} serves")
        case Stage.SCALED_TO_ZERO:
            return judgement.rest
        case Stage.PAUSED:
            return _Verdict(ConditionStatus.TRUE, Reason.PAUSED, facts.waiting or "spec.rollout.paused is true")
        case Stage.ROLLING:
            return _Verdict(ConditionStatus.TRUE, Reason.ROLLOUT_IN_PROGRESS, facts.waiting)
        case Stage.BLOCKED | Stage.FAILED | Stage.INVALID:
            problem = facts.problem or Problem(Reason.RECONCILE_ERROR, facts.waiting)
            return _Verdict(ConditionStatus.FALSE, problem.reason, problem.message)


def _up_to_date(judgement: Judgement) -> _Verdict:
    facts = judgement.facts
    progressing = _progressing(judgement)
    if judgement.invalid is None and facts.stage is Stage.SCALED_TO_ZERO:
        return _Verdict(ConditionStatus.TRUE, progressing.reason, progressing.message)
    if judgement.invalid is None and facts.complete:
        return _Verdict(ConditionStatus.TRUE, Reason.ROLLOUT_COMPLETE, f"{facts.target} serves")
    if facts.stage is Stage.FAILED and judgement.retained:
        message = f"{facts.target} failed ({progressing.reason}), {facts.current} serves: {progressing.message}"
        if progressing.reason is Reason.ROLLED_BACK:
            message = f"{facts.current} serves: {progressing.message}"
        return _Verdict(ConditionStatus.FALSE, Reason.ROLLED_BACK, message)
    return _Verdict(ConditionStatus.FALSE, progressing.reason, progressing.message)


def _validated(judgement: Judgement) -> _Verdict:
    if judgement.invalid is not None:
        return _Verdict(ConditionStatus.FALSE, judgement.invalid.reason, judgement.invalid.message)
    return _Verdict(ConditionStatus.TRUE, Reason.ROLLOUT_COMPLETE, "the spec can be served")


def _artifacts(judgement: Judgement) -> _Verdict:
    facts = judgement.facts
    problem = facts.problem or facts.degraded
    if problem is not None and problem.reason in _ARTIFACT_REASONS:
        return _Verdict(ConditionStatus.FALSE, problem.reason, problem.message)
    if judgement.loaded:
        return _Verdict(ConditionStatus.TRUE, Reason.ROLLOUT_COMPLETE, f"the artifacts of {facts.target} are loaded")
    return _Verdict(ConditionStatus.UNKNOWN, _progressing(judgement).reason, "not fetched yet")
