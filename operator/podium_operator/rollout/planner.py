"""`plan(observed, desired, now)`: the next safe actions towards what the spec asks for.

Everything is derived from what is observed, so that an operator may die between any two actions. Invariants, each
with a test:
- routable capacity never falls below `replicas - maxUnavailable` by our doing;
- at most two revisions are live;
- the ConfigMap names a revision before any pod is told to promote it;
- a revision that fails to load touches one pod;
- nothing is deleted while something refers to it.
"""

from dataclasses import replace
from datetime import datetime
from math import ceil

from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutStrategy
from podium_crds.status import ResolvedStrategy, RolloutPlan
from podium_operator.rollout import assess, canary, hand, history, inplace, shares, sizes, weights
from podium_operator.rollout.actions import (
    Action,
    CreatePool,
    Plan,
    Quarantine,
    WriteAssignment,
)
from podium_operator.rollout.assess import Verdict
from podium_operator.rollout.assignments import Sources, compiled, next_generation
from podium_operator.rollout.capacity import serves, worth_keeping
from podium_operator.rollout.changes import Cost, announced
from podium_operator.rollout.course import Course
from podium_operator.rollout.failures import refuses, reported_failure
from podium_operator.rollout.strategy import Resolution, resolve
from podium_operator.state import Desired, Facts, KnownRevision, Observed, Pool, Problem, Stage

ROLLING_S = 1.0
BLOCKED_S = 5.0
SETTLED_S = 30.0


def plan(observed: Observed, desired: Desired, now: datetime) -> Plan:
    """The next actions, in the order in which they are safe, and the facts for status."""
    desired = hand.obeyed(observed, replace(desired, target=_pinned_target(observed, desired)))
    target = desired.target
    known = {**observed.revisions, target.name: target}
    generation = next_generation(observed.pools, desired.lease_transitions)
    if generation is None:
        return _superseded_leader(observed, desired)
    releases = history.releases(observed, desired)
    if releases:
        verdict = Verdict(target.name, waiting="a quarantine to end")
        return Plan(assess.facts(observed, desired, now, verdict), releases, ROLLING_S)
    failure = assess.failure(observed, desired, now)
    if failure is not None and target.quarantine is None and _condemns(failure, desired):
        instead = fallback(observed, desired, in_new_pods=assess.is_new(observed, desired, now))
        if instead is not None:
            facts = assess.facts(observed, desired, now, Verdict(instead, failure=failure, strategy=desired.chosen))
            judged = Quarantine(target, failure, desired.retry_token, desired.rollout.strategy)
            return Plan(facts, (judged,), ROLLING_S)
    course = set_course(observed, desired)
    standing = None
    if course.goal == target.name:
        standing = canary.stand(observed, desired, course.home, course.resolution.strategy or desired.chosen, now)
    return _proceed(observed, inplace.Context(desired, known, generation, now, standing), course, failure)


def _condemns(failure: Problem, desired: Desired) -> bool:
    """Whether the target is to be given up. Once its rollout is complete it works, and what a later pod lacks (an
    artifact that was overwritten since, say) is that pod's problem; only workers that keep dying speak against it."""
    return desired.current != desired.target.name or failure.reason is Reason.RUNTIME_CRASH_LOOP


def _pinned_target(observed: Observed, desired: Desired) -> KnownRevision:
    """The target as recorded; a new one on the image and template of the pods it can be swapped into."""
    recorded = observed.revisions.get(desired.target.name)
    if recorded is not None:
        return recorded
    record = desired.target.record
    for pool in ranked_pools(observed, desired):
        known = observed.revisions.get(pool.promoted or "")
        if known is not None:
            record = record.pinned_like(known.record)
            break
    return replace(desired.target, record=record)


def _superseded_leader(observed: Observed, desired: Desired) -> Plan:
    problem = Problem(Reason.RECONCILE_ERROR, "another operator with a later Lease has written assignments")
    serving = any(serves(pod) for pool in observed.pools for pod in pool.pods)
    facts = Facts(Stage.BLOCKED, desired.target.name, desired.current, serving, complete=False, problem=problem)
    return Plan(facts, (), BLOCKED_S)


def fallback(observed: Observed, desired: Desired, *, in_new_pods: bool = True) -> str | None:
    """What serves instead of a target that failed: another pool's revision, one kept warm, or the last good one.

    `in_new_pods`: of a target that served alone, what was there before it may come back in pods of its own.
    """
    target = desired.target.name
    if desired.hand.rollback == target and desired.hand.rollback_to:
        return hand.instead(observed, desired)
    ranked = [pool for pool in ranked_pools(observed, desired) if pool.promoted != target]
    for pool in ranked:
        if pool.promoted in observed.revisions and _has_served(pool, desired):
            return pool.promoted
    for pool in observed.pools:
        for name in pool.warm:
            known = observed.revisions.get(name)
            if pool.promoted == target and known is not None and known.quarantine is None:
                return name
    if desired.hand.rollback == target:
        return hand.instead(observed, desired)
    if desired.current == target:
        return hand.instead(observed, desired) if in_new_pods else None
    # Nowhere any more (the version was changed while nothing ran, say), but known to work.
    last_good = observed.revisions.get(desired.current or "")
    if last_good is None or last_good.quarantine is not None:
        return None
    return last_good.name


def _has_served(pool: Pool, desired: Desired) -> bool:
    """Whether the pool's revision is the last good one, or serves and fails nowhere."""
    if pool.promoted is None or pool.promoted == desired.current:
        return pool.promoted is not None
    return any(serves(pod, pool.promoted) for pod in pool.pods) and not reported_failure(pool.pods, pool.promoted)


def ranked_pools(observed: Observed, desired: Desired) -> list[Pool]:
    """Pools that promote something: what serves before what does not, the last good revision before others."""

    def rank(pool: Pool) -> tuple[bool, bool, int, int, int]:
        serving = sum(serves(pod) for pod in pool.pods)
        return (serving == 0, pool.promoted != desired.current, -serving, -len(pool.live_pods), pool.ordinal)

    return sorted((p for p in observed.pools if p.promoted is not None and not p.deleting), key=rank)


def set_course(observed: Observed, desired: Desired) -> Course:
    """Goal, home pool and strategy of this pass."""
    target = desired.target
    goal = target.name
    kept = Resolution(desired.chosen)
    if target.quarantine is not None:
        goal = fallback(observed, desired) or goal
    ranked = ranked_pools(observed, desired)
    home = next((pool for pool in ranked if pool.promoted == goal and not _is_jammed(pool, desired)), None)
    if home is not None:
        return Course(goal, home, kept)
    if not ranked:
        return Course(goal, None, kept)
    base = ranked[0]
    assert base.promoted is not None
    if goal != target.name:
        shape = observed.revisions[goal].record.hashes.shape
        same_shape = base.stamp is None or base.stamp.shape_hash == shape
        return Course(goal, base if same_shape and not _came_alone(base, desired) else None, kept)
    return _towards_target(
        observed, desired, base, occupied=[pool for pool in ranked if pool.live_pods or pool.replicas]
    )


def _is_jammed(pool: Pool, desired: Desired) -> bool:
    """Whether a pod of the target's pool serves something older, and has no room for the target beside it: pods were
    told to promote it at once, while nothing served, and one came up at what it held before."""
    target = desired.target
    if pool.promoted != target.name or desired.current == target.name or target.quarantine is not None:
        return False
    is_free = desired.rollout.strategy is RolloutStrategy.AUTO
    return is_free and any(refuses(pod, target) for pod in pool.live_pods)


def _came_alone(base: Pool, desired: Desired) -> bool:
    """Whether the target came in pods of its own: what served before may have no room beside it on the way back."""
    if base.promoted != desired.target.name or desired.chosen is None:
        return False
    return desired.chosen.resolved is not RolloutStrategy.IN_PLACE


def _towards_target(observed: Observed, desired: Desired, base: Pool, occupied: list[Pool]) -> Course:
    """No pool promotes the target yet: how it gets there from the pool that serves most."""
    assert base.promoted is not None
    if len(occupied) > 1:
        # At most two revisions are live: one of the two there leaves before a third comes.
        return Course(base.promoted, base, Resolution(None), "a superseded revision to leave")
    serving = observed.revisions.get(base.promoted)
    same_shape = base.stamp is None or base.stamp.shape_hash == desired.target.record.hashes.shape
    if serving is None or desired.replicas == 0:
        return Course(desired.target.name, base if same_shape else None, Resolution(None))
    if not same_shape and not worth_keeping(base, desired.current):
        # Nothing is lost, and what the broken pods hold is given back as the new pool appears.
        reason = "the pods themselves change, and nothing serves from the old ones"
        surge_at_once = ResolvedStrategy(resolved=RolloutStrategy.SURGE, reason=reason)
        return Course(desired.target.name, None, Resolution(desired.chosen or surge_at_once))
    resolution = resolve(observed, desired, base, serving)
    if resolution.refusal is not None or desired.rollout.paused:
        return Course(base.promoted, base, resolution)
    assert resolution.strategy is not None
    in_place = resolution.strategy.resolved is RolloutStrategy.IN_PLACE
    return Course(desired.target.name, base if in_place else None, resolution)


def _proceed(observed: Observed, context: inplace.Context, course: Course, failure: Problem | None) -> Plan:
    desired, now = context.desired, context.now
    actions: list[Action] = []
    if course.home is not None or desired.replicas > 0:
        actions += history.record(observed, desired, course.goal)
    waiting = course.waiting
    due: datetime | None = None
    if course.home is None:
        actions += _first_pods(observed, context, course)
    else:
        step = _contents(course, context)
        waiting, due = waiting or step.waiting, step.due
        actions += step.actions
    actions += _restore(observed, context)
    actions += inplace.relieved([pool for pool in observed.pools if pool != course.home], context)
    wanted = sizes.targets(observed, context, course)
    divided = shares.divided(observed, context, course, wanted)
    actions += sizes.towards(observed, context, course, divided.sizes)
    actions += history.pins(observed)
    held = context.standing.waiting if context.standing is not None else ""
    waiting = waiting or divided.waiting or held or assess.missing(desired, course.home, now)
    verdict = Verdict(
        course.goal,
        course.home,
        course.resolution.strategy,
        course.resolution.refusal,
        failure,
        waiting,
        _announced(observed, desired, course),
        context.standing,
    )
    facts = assess.facts(observed, desired, now, verdict)
    if facts.complete:
        actions += history.served(observed, desired, now)
        actions += history.prune(observed, desired)
    return Plan(
        facts,
        tuple(actions),
        _requeue(facts, due, now),
        divided.backends,
        divided.pool_services,
        weights.settled(observed, desired, now),
    )


def _announced(observed: Observed, desired: Desired, course: Course) -> RolloutPlan | None:
    """What the rollout does, written once and then kept; None where nothing is replaced."""
    serving = observed.revisions.get(desired.current or "")
    strategy = course.resolution.strategy
    if serving is None or serving.name == desired.target.name or strategy is None:
        return None
    announced_before = desired.announced if desired.chosen is not None else None
    if announced_before is not None and announced_before.strategy is strategy.resolved:
        return announced_before
    cost = Cost(course.resolution.memory_bytes_needed, _start_seconds(observed, desired))
    return announced(desired, serving.record, strategy, cost)


def _start_seconds(observed: Observed, desired: Desired) -> int:
    """How long a pod takes to be ready: as the slowest one here did, else as a load may take."""
    taken = [
        (pod.ready_since - pod.created).total_seconds()
        for pool in observed.pools
        for pod in pool.live_pods
        if pod.ready_since is not None and pod.created is not None
    ]
    return ceil(max(taken, default=desired.rollout.load_timeout_seconds))


def _requeue(facts: Facts, due: datetime | None, now: datetime) -> float:
    pause = {Stage.ROLLING: ROLLING_S, Stage.BLOCKED: BLOCKED_S}.get(facts.stage, SETTLED_S)
    if facts.waiting:
        pause = min(pause, ROLLING_S)
    if due is not None:
        pause = min(pause, max(ROLLING_S, (due - now).total_seconds()))
    return pause


def _contents(course: Course, context: inplace.Context) -> inplace.Step:
    """What the home pool's ConfigMap and pods should hold."""
    assert course.home is not None
    if context.desired.rollout.paused and course.home.promoted != context.desired.target.name:
        return inplace.hold(course.home, context)
    return inplace.converge(course.home, course.goal, context)


def _first_pods(observed: Observed, context: inplace.Context, course: Course) -> list[Action]:
    """A new pool for the goal: its ConfigMap, then its Deployment. None while nothing should run."""
    desired = context.desired
    if desired.replicas == 0:
        return []
    rollout = sizes.pace(desired, course)
    ordinal = _unused_ordinal(observed)
    name = f"{desired.owner.resource.name}-{ordinal}"
    serving = any(pool.live_pods for pool in observed.pools)
    room = desired.replicas + rollout.max_surge - sum(len(pool.pods) for pool in observed.pools)
    replicas = min(1, max(0, room)) if serving else desired.replicas
    return [
        _fresh(name, ordinal, course.goal, context, None),
        CreatePool(name, ordinal, context.known[course.goal], replicas),
    ]


def _fresh(
    name: str, ordinal: int, promoted: str, context: inplace.Context, resource_version: str | None
) -> WriteAssignment:
    """A ConfigMap where there is none, or none that can be read."""
    sources = Sources(context.desired, context.known, context.generation)
    assignment = compiled(sources, name, None, promoted, ())
    return WriteAssignment(name, ordinal, assignment, context.now, resource_version)


def _unused_ordinal(observed: Observed) -> int:
    used = {pool.ordinal for pool in observed.pools}
    return next(ordinal for ordinal in range(len(used) + 1) if ordinal not in used)


def _restore(observed: Observed, context: inplace.Context) -> list[Action]:
    """A Deployment whose ConfigMap is gone gets one again, at what its pods say they promote."""
    restored: list[Action] = []
    for pool in observed.pools:
        if pool.assignment is not None or pool.stamp is None or pool.deleting:
            continue
        said = [pod.report.promoted for pod in pool.live_pods if pod.report is not None]
        candidates = [*said, context.desired.current, context.desired.target.name]
        promoted = next((name for name in candidates if name is not None and name in context.known), None)
        if promoted is not None:
            version = pool.assignment_resource_version or None
            restored.append(_fresh(pool.name, pool.ordinal, promoted, context, version))
    return restored
