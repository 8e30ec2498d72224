"""One pool towards one revision without replacing a pod: candidate in one pod, then waves, then one flip.

Order, each step on an observed fact: make room (drop a third revision) → load in one pod → load in waves of
maxParallelLoads → write the ConfigMap → push the flip → keep the old warm → unload it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from podium_crds.assignment import LOADED_STATES, Assignment, Generation
from podium_operator.rollout import parity
from podium_operator.rollout.actions import Action, Push, WriteAssignment
from podium_operator.rollout.assignments import Sources, assigned, compiled, divided, has_taken, same_content, settled
from podium_operator.rollout.canary import ALL, Standing, divides, loaded_everywhere
from podium_operator.rollout.capacity import worth_keeping
from podium_operator.state import Desired, KnownRevision, ObservedPod, Pool


@dataclass(frozen=True, slots=True)
class Step:
    """What to do to a pool's contents now, and what is waited for."""

    actions: tuple[Action, ...] = ()
    waiting: str = ""
    due: datetime | None = None
    """When to look again although nothing changed."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every step of a pool needs."""

    desired: Desired
    known: Mapping[str, KnownRevision]
    generation: Generation
    now: datetime
    standing: Standing | None = None
    """The step at which the rollout is; None: no steps are left, or there are none."""


def converge(pool: Pool, goal: str, context: Context) -> Step:
    """The next step of this pool towards serving `goal`. The pool's ConfigMap exists."""
    assert pool.promoted is not None, "a pool without a ConfigMap has nothing to converge"
    if goal != pool.promoted:
        return _swap(pool, goal, context)
    return _keep(pool, context)


def hold(pool: Pool, context: Context) -> Step:
    """Bring pods to what the ConfigMap says and change nothing else; a candidate in a pod stays there."""
    assert pool.assignment is not None, "a pool without a ConfigMap has nothing to hold"
    behind = [
        pod
        for pod in _reporting(pool)
        if pod.report is not None and (pod.report.applied is None or pod.report.applied < pool.assignment.generation)
    ]
    return Step(_pushes(behind, pool.assignment, context))


def relieved(pools: Iterable[Pool], context: Context) -> tuple[Action, ...]:
    """Has pods of these pools, from which the goal will not be served, let go of candidates."""
    pushes: list[Action] = []
    for pool in pools:
        if pool.assignment is not None:
            named = {revision.name for revision in pool.assignment.revisions}
            astray = [pod for pod in _reporting(pool) if pod.report is not None and assigned(pod.report) - named]
            pushes += _pushes(astray, pool.assignment, context)
    return tuple(pushes)


def _keep(pool: Pool, context: Context) -> Step:
    """The promoted revision is the goal: refresh the ConfigMap, keep the old warm for its time, mend pods."""
    assert pool.assignment is not None
    assert pool.promoted is not None
    warm, due = _warm(pool, context)
    wanted = _compiled(pool, pool.promoted, warm, context)
    if not same_content(pool.assignment, wanted):
        unloads = set(pool.warm) - set(warm)
        if unloads and not settled(pool):
            return replace(
                _mend(pool, context), waiting="pods to take the ConfigMap before the old revision is unloaded"
            )
        return _write(pool, wanted, promoted_at=pool.promoted_at or context.now)
    return replace(_mend(pool, context), due=due)


def _warm(pool: Pool, context: Context) -> tuple[tuple[str, ...], datetime | None]:
    """Which revisions stay beside the promoted one, and until when."""
    window = timedelta(seconds=context.desired.rollout.rollback_window_seconds)
    until = (pool.promoted_at or context.now) + window
    if until <= context.now:
        return (), None
    warm = tuple(
        name for name in pool.warm if (known := context.known.get(name)) is not None and known.quarantine is None
    )
    return warm, until if warm else None


def _swap(pool: Pool, goal: str, context: Context) -> Step:
    assert pool.promoted is not None
    idle = pool.replicas == 0 and not pool.live_pods
    if idle or _quarantined((pool.promoted,), context) or not worth_keeping(pool, context.desired.current):
        return _promote(pool, goal, context, warm=())
    third = [name for name in pool.warm if name != goal]
    if third:
        kept = tuple(name for name in pool.warm if name == goal)
        return _write(pool, _compiled(pool, pool.promoted, kept, context), promoted_at=pool.promoted_at or context.now)
    mended = _mend(pool, context, candidate=goal)
    if mended.actions:
        return mended
    return _load(pool, goal, context)


def _load(pool: Pool, goal: str, context: Context) -> Step:
    """Load the candidate in one pod, then in waves; promote once every serving pod has it."""
    assert pool.promoted is not None
    bearing = [pod for pod in pool.live_pods if pod.ready]
    loaded = [pod for pod in bearing if (held := pod.holds(goal)) is not None and held.state in LOADED_STATES]
    if loaded_everywhere(pool, goal):
        at = context.standing.canary if context.standing is not None else None
        if at is not None and at.weight < ALL:
            return _divide(pool, goal, context, at.weight)
        return _promote(pool, goal, context, warm=(pool.promoted,))
    lingering = [pod for pod in bearing if _others(pod, {pool.promoted, goal})]
    if lingering:
        return Step(waiting=f"an older revision to leave {lingering[0].name}")
    loading = [pod for pod in bearing if pod.holds(goal) is not None and pod not in loaded]
    limit = context.desired.rollout.max_parallel_loads if loaded else 1
    idle = [pod for pod in bearing if pod.holds(goal) is None and pod.report is not None]
    chosen = sorted(idle, key=lambda pod: pod.name)[: max(0, limit - len(loading))]
    wanted = _compiled(pool, pool.promoted, (goal,), context)
    silent = [pod.name for pod in bearing if pod.report is None]
    waiting = f"{goal} to load: {len(loaded)} of {len(bearing)} pods have it" if bearing else "a pod to be ready"
    if silent and not chosen and not loading:
        waiting = f"a report of {', '.join(sorted(silent))}"
    return Step(tuple(Push(pod, wanted) for pod in chosen), waiting=waiting)


def _divide(pool: Pool, goal: str, context: Context, weight: int) -> Step:
    """Every pod gives the candidate its share and its copies; what a restarted container forgot is said again."""
    assert pool.promoted is not None
    shadow = parity.policy(context.desired)
    wanted = divided(_compiled(pool, pool.promoted, (goal,), context), goal, weight, shadow)
    bearing = [pod for pod in pool.live_pods if pod.ready and pod.holds(goal) is not None]
    astray = [pod for pod in bearing if not divides(pod, context.desired, weight)]
    waiting = context.standing.waiting if context.standing is not None else ""
    due = context.standing.due if context.standing is not None else None
    return Step(tuple(Push(pod, wanted) for pod in astray), waiting=waiting, due=due)


def _others(pod: ObservedPod, names: set[str]) -> bool:
    """Whether the pod holds a revision besides these: at most two are ever in its memory."""
    return pod.report is not None and any(held.name not in names for held in pod.report.revisions)


def _promote(pool: Pool, goal: str, context: Context, warm: tuple[str, ...]) -> Step:
    """Write the ConfigMap first, so that whatever restarts from here on comes up at the goal; then flip the pods."""
    if context.desired.rollout.rollback_window_seconds == 0 or _quarantined(warm, context):
        warm = ()
    return _write(pool, _compiled(pool, goal, warm, context), promoted_at=context.now)


def _quarantined(names: tuple[str, ...], context: Context) -> bool:
    return any((known := context.known.get(name)) is None or known.quarantine is not None for name in names)


def _write(pool: Pool, wanted: Assignment, *, promoted_at: datetime) -> Step:
    written = WriteAssignment(
        pool=pool.name,
        ordinal=pool.ordinal,
        assignment=wanted,
        promoted_at=promoted_at,
        resource_version=pool.assignment_resource_version or None,
    )
    pushes = tuple(Push(pod, wanted) for pod in _reporting(pool))
    return Step((written, *pushes), waiting=f"pods to take generation {wanted.generation.sequence}")


def _mend(pool: Pool, context: Context, candidate: str | None = None) -> Step:
    """Push what the ConfigMap says to pods that show anything else; a `candidate` beside it is left alone."""
    assert pool.assignment is not None
    astray: list[ObservedPod] = []
    for pod in _reporting(pool):
        wanted = pool.assignment
        if has_taken(pod, wanted, wanted.generation):
            continue
        if candidate is not None and _holds_only(pod, pool, candidate):
            continue
        astray.append(pod)
    return Step(_pushes(astray, pool.assignment, context))


def _holds_only(pod: ObservedPod, pool: Pool, candidate: str) -> bool:
    """Whether the pod holds what the ConfigMap says and the candidate, and nothing else."""
    assert pool.assignment is not None
    report = pod.report
    if report is None or report.applied is None or report.applied < pool.assignment.generation:
        return False
    wanted = {revision.name for revision in pool.assignment.revisions} | {candidate}
    return report.promoted == pool.promoted and assigned(report) == wanted


def _pushes(pods: list[ObservedPod], assignment: Assignment, context: Context) -> tuple[Action, ...]:
    raised = assignment.model_copy(update={"generation": context.generation})
    pushes: list[Action] = []
    for pod in pods:
        applied = pod.report.applied if pod.report is not None else None
        # A pod that is merely behind gets the ConfigMap's own generation: the mounted copy is then no news to it.
        behind = applied is None or applied < assignment.generation
        pushes.append(Push(pod, assignment if behind else raised))
    return tuple(pushes)


def _reporting(pool: Pool) -> tuple[ObservedPod, ...]:
    return tuple(pod for pod in pool.live_pods if pod.report is not None)


def _compiled(pool: Pool, promoted: str, beside: tuple[str, ...], context: Context) -> Assignment:
    sources = Sources(context.desired, context.known, context.generation)
    return compiled(sources, pool.name, pool.assignment, promoted, beside)
