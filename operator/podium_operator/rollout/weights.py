"""How an HTTPRoute divides requests in a surge in steps: by the weight of the step, where whole pods cannot. PURE.

The Service of all pools stays in the route. What its pods' own share is too much or too little goes straight to the
pods of one pool, by a Service of that pool. Why so, and not to each pool by its weight: docs/decisions/0016.
Invariants, each with a test:
- the Service of all pools never has weight 0;
- a pool gets a weight only while two of its pods are routable by its own Service, and once every Gateway has answered
  for a route that names that Service with weight 0;
- a pool keeps a pod until Gateways have answered for a route in which it has weight 0, and have had the time to follow.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from fractions import Fraction

from podium_operator.rollout.capacity import routable, serves
from podium_operator.state import Backends, Desired, Observed, Pool

LEAST_PODS = 2
"""With one alone, its death or eviction would fail requests until every Gateway knows: no pool gets a weight then."""
LARGEST = 900
"""Of a weight. Some load balancers behind Gateways take no more than 999."""


def aimed(observed: Observed, desired: Desired, home: Pool | None, share: int | None, *, at_least: bool) -> Backends:
    """Where the route should come to, for the new revision to have `share` percent; with `at_least`, that or more.

    `share` None: what its pods have. Without new pods yet, as for the first of them.
    """
    others = [pool for pool in observed.pools if pool != home and pool.live_pods]
    if share is None or not desired.weighted or len(others) != 1:
        return Backends()
    [old] = others
    new_pods, old_pods = max(1, _serving(home)), _serving(old)
    if old_pods == 0:
        return Backends()
    wanted, natural = Fraction(share, 100), Fraction(new_pods, new_pods + old_pods)
    if wanted < natural and not at_least:
        return _straight(old, 1 - wanted / natural)
    if wanted > natural and home is not None:
        return _straight(home, (wanted - natural) / (1 - natural))
    return Backends()


def following(
    observed: Observed, desired: Desired, aim: Backends, sizes: Mapping[str, int], now: datetime
) -> Backends | None:
    """What the route should say next on the way to `aim`; None where there is no route yet.

    `sizes`: what pools are about to be scaled to, by name.
    """
    route = observed.route
    if route is None:
        return None
    live, is_settled = route.backends.pools, settled(observed, desired, now)
    steady = {pool.name for pool in observed.pools if _steady(pool, desired, sizes, now)}
    pools: dict[str, int] = {}
    for name in sorted(live.keys() | aim.pools.keys()):
        weight = aim.pools.get(name, 0) if name in steady else 0
        if name not in live:
            if weight:
                pools[name] = 0  # Gateways come to know the Service before it gets a request
        elif live[name] or is_settled:
            if weight or live[name]:
                pools[name] = weight
        else:
            pools[name] = 0
    return Backends(aim.service if any(pools.values()) else 1, pools)


def settled(observed: Observed, desired: Desired, now: datetime) -> bool:
    """Whether every Gateway has answered for the route as it is, and has had propagationSeconds to follow it."""
    route = observed.route
    if route is None:
        return True
    wait = timedelta(seconds=desired.rollout.propagation_seconds)
    return route.answered and (route.since is None or now >= route.since + wait)


def held(observed: Observed, desired: Desired, now: datetime) -> frozenset[str]:
    """Pools that some Gateway may still send requests straight to."""
    if observed.route is None:
        return frozenset()
    is_settled = settled(observed, desired, now)
    return frozenset(name for name, weight in observed.route.backends.pools.items() if weight or not is_settled)


def reached(observed: Observed, desired: Desired, home: Pool, share: int, now: datetime) -> bool:
    """Whether Gateways divide as they should at that share, as far as pods allow it."""
    if observed.route is None or not desired.weighted:
        return True
    aim = aimed(observed, desired, home, share, at_least=False)
    return settled(observed, desired, now) and following(observed, desired, aim, {}, now) == observed.route.backends


def kept(pool: Pool, size: int, holding: frozenset[str]) -> int:
    """The size that a pool may be scaled to: one pod stays as long as requests may come straight to it."""
    if size > 0 or pool.name not in holding or not any(pod.ready for pod in pool.pods):
        return size
    return min(1, pool.replicas)


def _straight(pool: Pool, share: Fraction) -> Backends:
    rounded = share.limit_denominator(LARGEST)
    if rounded in (0, 1):
        return Backends()
    return Backends(rounded.denominator - rounded.numerator, {pool.name: rounded.numerator})


def _serving(pool: Pool | None) -> int:
    return 0 if pool is None else sum(serves(pod) for pod in pool.pods)


def _steady(pool: Pool, desired: Desired, sizes: Mapping[str, int], now: datetime) -> bool:
    known = sum(routable(pod, desired.rollout, now) and pod.pool_endpoint_ready for pod in pool.pods)
    return min(known, pool.replicas, sizes.get(pool.name, pool.replicas)) >= LEAST_PODS
