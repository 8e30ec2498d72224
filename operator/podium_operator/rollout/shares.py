"""The HTTPRoute's part of a pass: what it should say at this step, and which sizes of pools that allows. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass

from podium_crds.rollout import RolloutStrategy
from podium_operator.rollout import inplace, weights
from podium_operator.rollout.course import Course
from podium_operator.state import Backends, Observed


@dataclass(frozen=True, slots=True)
class Divided:
    """What the HTTPRoute should say, and the sizes of pools that this allows."""

    sizes: Mapping[int, int] | None
    backends: Backends | None
    pool_services: frozenset[str]
    waiting: str = ""


def divided(observed: Observed, context: inplace.Context, course: Course, wanted: Mapping[int, int] | None) -> Divided:
    """How far the route may go in this pass. `wanted`: sizes by ordinal as the rollout alone would have them."""
    desired, now, standing = context.desired, context.now, context.standing
    strategy = course.resolution.strategy or desired.chosen
    is_surge = strategy is not None and strategy.resolved is RolloutStrategy.SURGE
    steps, share, is_over = desired.rollout.steps, None, False
    if is_surge and standing is not None and standing.canary is not None:
        is_over = standing.canary.step > len(steps)
        share = steps[-1].weight if is_over else standing.canary.weight
    elif is_surge and standing is not None:
        share = steps[0].weight or None  # the first new pod should not get more before the step begins
    aim = weights.aimed(observed, desired, course.home, share, at_least=is_over)
    named = {pool.name: (wanted or {}).get(pool.ordinal, pool.replicas) for pool in observed.pools}
    backends = weights.following(observed, desired, aim, named, now)
    pools = {pool.name for pool in observed.pools if pool.stamp is not None}
    listed = frozenset(() if observed.route is None else pools & observed.route.backends.pools.keys())
    if observed.route is not None and desired.weighted and share is not None:
        listed |= pools
    if wanted is None or desired.replicas == 0:
        return Divided(wanted, backends, listed)
    holding = weights.held(observed, desired, now)
    allowed = {
        pool.ordinal: weights.kept(pool, wanted[pool.ordinal], holding)
        for pool in observed.pools
        if pool.ordinal in wanted
    }
    waited = [pool.name for pool in observed.pools if allowed.get(pool.ordinal) != wanted.get(pool.ordinal)]
    waiting = f"Gateways to send nothing straight to {', '.join(waited)} any more" if waited else ""
    return Divided({**wanted, **allowed}, backends, listed, waiting)
