"""The share that status tells of a revision."""

from dataclasses import replace

from tests.support.builders import a_desired
from tests.support.simulated_cluster import SimulatedCluster, retargeted, settle

from podium_operator.state import Backends, Observed, ObservedRoute
from podium_operator.status.shares import share

ROLLOUT = {"propagationSeconds": 2, "rollbackWindowSeconds": 30, "steps": [{"weight": 10}]}


def amid_a_surge(*, answered: bool = True, **weights: int) -> tuple[Observed, str, str]:
    """Two pods of the old revision and one of the new, a route with these weights (`service` and pools by ordinal), and
    the names of old and new."""
    world = SimulatedCluster()
    old, _ = settle(world, a_desired(replicas=2, rollout=ROLLOUT))
    env = [{"name": "A", "value": "b"}]
    new = retargeted(old, a_desired("2", replicas=2, rollout=ROLLOUT, env=env))
    settle(world, new, until=lambda w, _: len(w.serving()) == 3)
    pools = {f"minilm-{name[-1]}": weight for name, weight in weights.items() if name != "service"}
    route = ObservedRoute(Backends(weights.get("service", 1), pools), answered=answered)
    return replace(world.observed(), route=route if weights else None), old.target.name, new.target.name


def test_without_a_route_it_is_that_of_the_pods() -> None:
    observed, old, new = amid_a_surge()
    assert [share(name, observed, None) for name in (old, new)] == [67, 33]


def test_with_weights_in_force_it_is_that_behind_the_gateways() -> None:
    observed, old, new = amid_a_surge(service=3, pool_0=7)
    assert [share(name, observed, 0) for name in (old, new)] == [90, 10]
    observed, old, new = amid_a_surge(service=1, pool_1=1)
    assert [share(name, observed, 0) for name in (old, new)] == [33, 67]


def test_a_pool_that_gateways_only_know_changes_no_share() -> None:
    for answered in (True, False):
        observed, old, new = amid_a_surge(service=1, pool_0=0, answered=answered)
        assert [share(name, observed, 5) for name in (old, new)] == [67, 33]


def test_until_gateways_have_answered_for_new_weights_what_was_said_stands() -> None:
    observed, old, new = amid_a_surge(service=3, pool_0=7, answered=False)
    assert share(new, observed, 33) == 33
    assert share(old, observed, None) == 90, "nothing was said before"


def test_a_pool_without_a_pod_that_answers_has_no_share() -> None:
    observed, old, new = amid_a_surge(service=3, pool_0=7)
    pools = tuple(
        replace(pool, pods=tuple(replace(pod, ready_since=None) for pod in pool.pods)) if pool.ordinal == 0 else pool
        for pool in observed.pools
    )
    gone = replace(observed, pools=pools)
    assert [share(name, gone, 0) for name in (old, new)] == [0, 100]
    assert share(new, replace(observed, pools=()), 50) == 0
