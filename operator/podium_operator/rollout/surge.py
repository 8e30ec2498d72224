"""How many replicas each pool should have: the new pool grows as the old shrinks, one step per observed fact.

Invariant: a scale-down never takes routable capacity below `replicas - maxUnavailable`, whatever the old plan was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from podium_crds.rollout import RolloutSpec
from podium_operator.rollout.canary import pods_at
from podium_operator.rollout.capacity import routable_count, worth_keeping
from podium_operator.state import Pool


@dataclass(frozen=True, slots=True)
class Demand:
    """What replica targets are computed from."""

    replicas: int
    rollout: RolloutSpec
    now: datetime
    good: str | None = None
    """The last revision known to serve well: its pods are kept through a moment of being unready."""
    weight: int | None = None
    """Share in percent that the new revision may have at this step; None: all of it."""
    gpus_fit: bool | None = None
    """Whether some node could take a pod of the new revision; None: only the scheduler knows."""


def replica_targets(home: Pool, others: tuple[Pool, ...], demand: Demand) -> Mapping[int, int]:
    """Wanted `spec.replicas` by pool ordinal. `home` runs what is wanted; `others` leave as it becomes routable."""
    occupied = sum(max(pool.replicas, len(pool.pods)) for pool in others)
    if demand.replicas == 0 or occupied == 0:
        return {home.ordinal: _alone(home, demand), **{pool.ordinal: 0 for pool in others}}
    grown = _grow(home, occupied, demand)
    targets = {home.ordinal: grown}
    targets.update(_shrink(home, others, demand))
    return targets


def _alone(home: Pool, demand: Demand) -> int:
    """All replicas, and one more while the only pod sits on a cordoned node: its eviction must find a replacement."""
    cordoned = any(pod.cordoned for pod in home.live_pods)
    return demand.replicas + (1 if demand.replicas == 1 and cordoned else 0)


def _grow(home: Pool, occupied: int, demand: Demand) -> int:
    """The home pool's next size. The first pod comes alone; Terminating pods of the old still hold their place."""
    if withdraws(home, demand):
        return sum(pod.node is not None for pod in home.live_pods)
    room = demand.replicas + demand.rollout.max_surge - occupied
    if routable_count(home, demand.rollout, demand.now) == 0 and home.replicas <= 1:
        room = min(room, 1)
    if demand.weight is not None:
        room = min(room, pods_at(demand.weight, demand.replicas)[0])
    return min(demand.replicas, max(home.replicas, room))


def withdraws(home: Pool, demand: Demand) -> bool:
    """Whether pods that no node takes are taken back, so that a surge that cannot go on holds no place in the queue of
    the scheduler: after scheduleTimeoutSeconds of waiting, and for as long again."""
    timeout = timedelta(seconds=demand.rollout.schedule_timeout_seconds)
    if home.withdrawn_at is not None and demand.now < home.withdrawn_at + timeout:
        return True
    if home.withdrawn_at is not None and home.replicas == 0 and demand.gpus_fit is False:
        return True
    return is_overdue(home, demand.rollout, demand.now)


def is_overdue(home: Pool, rollout: RolloutSpec, now: datetime) -> bool:
    """Whether a pod has waited for a node longer than scheduleTimeoutSeconds."""
    return any(pod.waits_for_node_longer_than(rollout.schedule_timeout_seconds, now) for pod in home.live_pods)


def _shrink(home: Pool, others: tuple[Pool, ...], demand: Demand) -> dict[int, int]:
    """The other pools' next sizes: together what `home` does not yet carry, the least useful pools first."""
    rollout, now = demand.rollout, demand.now
    carried = min(routable_count(home, rollout, now), demand.replicas)
    if demand.weight is not None:
        carried = min(carried, pods_at(demand.weight, demand.replicas)[1])
    keep = max(0, demand.replicas - rollout.max_unavailable - carried)
    targets: dict[int, int] = {}
    best_first = sorted(others, key=lambda pool: (-routable_count(pool, rollout, now), pool.ordinal))
    for position, pool in enumerate(best_first):
        if not worth_keeping(pool, demand.good):
            targets[pool.ordinal] = 0
            continue
        size = min(pool.replicas, keep)
        if position == 0 and carried == 0:
            size = max(size, keep)  # scaled up, or lost pods, before anything new carries load
        targets[pool.ordinal] = size
        keep = max(0, keep - min(size, routable_count(pool, rollout, now)))
    return targets
