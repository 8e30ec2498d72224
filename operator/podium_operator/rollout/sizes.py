"""The sizes of the pools as actions: growth first, and what became empty is deleted."""

from collections.abc import Mapping

from podium_crds.rollout import RolloutSpec, RolloutStrategy
from podium_operator.rollout import inplace, surge
from podium_operator.rollout.actions import Action, CreatePool, DeletePool, ScalePool, Withdraw
from podium_operator.rollout.capacity import gpu_fits, gpus_per_pod
from podium_operator.rollout.course import Course
from podium_operator.state import Desired, Observed, Pool


def targets(observed: Observed, context: inplace.Context, course: Course) -> Mapping[int, int] | None:
    """Wanted sizes by ordinal. None where pools stay as they are: none is there to take over, or all is halted."""
    desired, home = context.desired, course.home
    if home is None:
        return None
    others = _others(observed, home)
    if desired.rollout.paused and any(pool.live_pods for pool in others):
        return None
    good = desired.current or next((p.promoted for p in others if any(pod.ready for pod in p.pods)), None)
    demand = surge.Demand(
        desired.replicas,
        pace(desired, course),
        context.now,
        good,
        context.standing.canary.weight
        if context.standing is not None and context.standing.canary is not None
        else None,
        gpu_fits(observed, gpus_per_pod(context.known[course.goal].record)),
    )
    return surge.replica_targets(home, others, demand)


def towards(
    observed: Observed, context: inplace.Context, course: Course, wanted: Mapping[int, int] | None
) -> list[Action]:
    """The actions that bring pools to these sizes."""
    desired, home = context.desired, course.home
    if home is None:
        return _nothing(observed) if desired.replicas == 0 else []
    if wanted is None:
        return []
    actions: list[Action] = []
    if home.stamp is None:
        actions.append(CreatePool(home.name, home.ordinal, context.known[course.goal], wanted[home.ordinal]))
    changes = [
        _resized(pool, home, wanted[pool.ordinal], context)
        for pool in (home, *_others(observed, home))
        if pool.stamp is not None and wanted[pool.ordinal] != pool.replicas
    ]
    changes.sort(key=lambda change: change.pool.replicas - change.replicas)
    return [*actions, *changes, *_empty(observed, home)]


def _others(observed: Observed, home: Pool) -> tuple[Pool, ...]:
    return tuple(pool for pool in observed.pools if pool.ordinal != home.ordinal and not pool.deleting)


def _nothing(observed: Observed) -> list[Action]:
    """Scaled to zero with no pool to come back to."""
    running = [pool for pool in observed.pools if pool.stamp is not None and pool.replicas > 0 and not pool.deleting]
    return [*(ScalePool(pool, 0, "scaled to zero") for pool in running), *_empty(observed, None)]


def pace(desired: Desired, course: Course) -> RolloutSpec:
    """The surge knobs of this rollout. Recreate is a surge in which all of the old leaves before the new comes."""
    strategy = course.resolution.strategy
    if strategy is None or strategy.resolved is not RolloutStrategy.RECREATE:
        return desired.rollout
    return desired.rollout.model_copy(update={"max_surge": 0, "max_unavailable": desired.replicas})


def _resized(pool: Pool, home: Pool, replicas: int, context: inplace.Context) -> ScalePool | Withdraw:
    if (
        pool.ordinal == home.ordinal
        and surge.is_overdue(pool, context.desired.rollout, context.now)
        and replicas < pool.replicas
    ):
        return Withdraw(pool, replicas, context.now)
    return ScalePool(pool, replicas, _why(pool, home, replicas))


def _why(pool: Pool, home: Pool, replicas: int) -> str:
    if pool.ordinal == home.ordinal:
        return f"{pool.promoted} to {replicas} pods"
    return f"{pool.promoted} to {replicas} pods as {home.promoted} takes over"


def _empty(observed: Observed, home: Pool | None) -> list[Action]:
    """Pools to delete: no replicas wanted, no pod left, so no EndpointSlice names one either."""
    return [
        DeletePool(pool)
        for pool in observed.pools
        if (home is None or pool.ordinal != home.ordinal) and pool.replicas == 0 and not pool.pods and not pool.deleting
    ]
