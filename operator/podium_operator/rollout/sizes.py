"""The sizes of the pools as actions: growth first, and what became empty is deleted."""

from podium_crds.rollout import RolloutSpec, RolloutStrategy
from podium_operator.rollout import inplace, surge
from podium_operator.rollout.actions import Action, CreatePool, DeletePool, ScalePool, Withdraw
from podium_operator.rollout.capacity import gpu_fits, gpus_per_pod
from podium_operator.rollout.course import Course
from podium_operator.state import Desired, Observed, Pool


def towards(observed: Observed, context: inplace.Context, course: Course) -> list[Action]:
    """Sizes of the pools, growth first, then what became empty is deleted."""
    desired, home = context.desired, course.home
    if home is None:
        return _nothing(observed) if desired.replicas == 0 else []
    others = tuple(pool for pool in observed.pools if pool.ordinal != home.ordinal and not pool.deleting)
    if desired.rollout.paused and any(pool.live_pods for pool in others):
        return []
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
    targets = surge.replica_targets(home, others, demand)
    actions: list[Action] = []
    if home.stamp is None:
        actions.append(CreatePool(home.name, home.ordinal, context.known[course.goal], targets[home.ordinal]))
    changes = [
        _resized(pool, home, targets[pool.ordinal], context)
        for pool in (home, *others)
        if pool.stamp is not None and targets[pool.ordinal] != pool.replicas
    ]
    changes.sort(key=lambda change: change.pool.replicas - change.replicas)
    return [*actions, *changes, *_empty(observed, home)]


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
