"""Shares by Gateways in a surge: exact where pods allow it, and no route that a Gateway may follow loses a request."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operator.rollout.test_canary import second
from tests.operator.rollout.test_planner import FAST, running
from tests.support.builders import START, a_desired, after
from tests.support.simulated_cluster import SimulatedCluster, remembered, retargeted, settle
from tests.support.simulated_gateway import SimulatedGateway

from podium_operator.rollout.weights import LARGEST, aimed, following, held, kept
from podium_operator.state import Backends, Desired, Facts, Hand, Observed, ObservedPod, ObservedRoute, Pool, Stage

PROPAGATION = timedelta(seconds=FAST["propagationSeconds"])
WEIGHTED = replace(a_desired(rollout=dict(FAST)), weighted=True)


def a_pool(ordinal: int, pods: int, *, own_service: bool = True) -> Pool:
    """A pool whose pods have been routable for long."""
    ready = tuple(
        ObservedPod(
            name=f"p{ordinal}-{number}",
            uid=f"u{ordinal}-{number}",
            running_since=START,
            ready_since=START,
            endpoint_ready=True,
            pool_endpoint_ready=own_service,
        )
        for number in range(pods)
    )
    return Pool(ordinal=ordinal, name=f"minilm-{ordinal}", replicas=pods, pods=ready)


def share_of_new(backends: Backends, old: Pool, new: Pool) -> Fraction:
    natural = Fraction(len(new.pods), len(new.pods) + len(old.pods))
    total = backends.service + sum(backends.pools.values())
    return (backends.service * natural + backends.pools.get(new.name, 0)) / total


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 99))
def test_the_share_is_exact_to_a_thousandth_and_weights_are_such_as_load_balancers_take(
    old_pods: int, new_pods: int, share: int
) -> None:
    old, new = a_pool(0, old_pods), a_pool(1, new_pods)
    found = aimed(Observed(pools=(old, new)), WEIGHTED, new, share, at_least=False)
    assert abs(share_of_new(found, old, new) - Fraction(share, 100)) < Fraction(1, 1000)
    assert 1 <= found.service <= LARGEST
    assert all(1 <= weight <= LARGEST for weight in found.pools.values())
    assert len(found.pools) <= 1


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 99))
def test_once_steps_are_over_the_share_never_falls_below_the_last(old_pods: int, new_pods: int, share: int) -> None:
    old, new = a_pool(0, old_pods), a_pool(1, new_pods)
    found = aimed(Observed(pools=(old, new)), WEIGHTED, new, share, at_least=True)
    assert share_of_new(found, old, new) >= Fraction(share, 100) - Fraction(1, 1000)
    assert old.name not in found.pools


def test_nothing_is_weighed_that_nobody_asked_for() -> None:
    old, new = a_pool(0, 3), a_pool(1, 1)
    observed = Observed(pools=(old, new))
    assert aimed(observed, replace(WEIGHTED, weighted=False), new, 10, at_least=False) == Backends()
    assert aimed(observed, WEIGHTED, new, None, at_least=False) == Backends()
    assert aimed(Observed(pools=(new,)), WEIGHTED, new, 10, at_least=False) == Backends()
    assert aimed(Observed(pools=(old, new, a_pool(2, 1))), WEIGHTED, new, 10, at_least=False) == Backends()


AIM = Backends(3, {"minilm-0": 7})


def step(
    live: Backends, aim: Backends = AIM, *, old: Pool | None = None, answered: bool = True, **sizes: int
) -> Backends:
    observed = Observed(pools=(old or a_pool(0, 3), a_pool(1, 1)), route=ObservedRoute(live, START, answered))
    named = {f"minilm-{name.removeprefix('pool')}": size for name, size in sizes.items()}
    found = following(observed, WEIGHTED, aim, named, after(60))
    assert found is not None
    return found


def test_a_pool_is_named_without_a_weight_before_it_gets_one() -> None:
    assert step(Backends()) == Backends(1, {"minilm-0": 0})
    assert step(Backends(1, {"minilm-0": 0}), answered=False) == Backends(1, {"minilm-0": 0})
    assert step(Backends(1, {"minilm-0": 0})) == AIM


def test_a_pool_loses_its_weight_before_it_is_named_no_more() -> None:
    assert step(AIM, Backends(), answered=False) == Backends(1, {"minilm-0": 0})
    assert step(Backends(1, {"minilm-0": 0}), Backends(), answered=False) == Backends(1, {"minilm-0": 0})
    assert step(Backends(1, {"minilm-0": 0}), Backends()) == Backends()


def test_another_weight_of_the_same_pool_waits_for_nothing() -> None:
    assert step(AIM, Backends(1, {"minilm-0": 9}), answered=False) == Backends(1, {"minilm-0": 9})


@pytest.mark.parametrize(
    "old",
    [
        a_pool(0, 1),
        a_pool(0, 3, own_service=False),
        replace(a_pool(0, 3), replicas=1),
        replace(a_pool(0, 2), pods=(a_pool(0, 2).pods[0], replace(a_pool(0, 2).pods[1], terminating=True))),
        replace(a_pool(0, 2), pods=(a_pool(0, 2).pods[0], replace(a_pool(0, 2).pods[1], ready_since=after(59.5)))),
    ],
    ids=["one pod", "no Service of its own", "about to have one", "one of two on its way out", "one of two is new"],
)
def test_a_pool_that_one_pod_carries_has_no_weight_at_once(old: Pool) -> None:
    assert step(AIM, old=old, answered=False) == Backends(1, {"minilm-0": 0})
    assert step(Backends(), old=old) == Backends()


def test_a_pool_that_this_pass_shrinks_to_one_pod_gets_no_weight() -> None:
    assert step(Backends(1, {"minilm-0": 0}), pool0=1).pools.get("minilm-0", 0) == 0


def test_the_last_pod_stays_until_gateways_follow_a_route_without_it() -> None:
    pool = a_pool(0, 2)
    for backends, answered, seconds, holds in (
        (AIM, True, 60.0, True),
        (Backends(1, {"minilm-0": 0}), False, 60.0, True),
        (Backends(1, {"minilm-0": 0}), True, 1.0, True),
        (Backends(1, {"minilm-0": 0}), True, 60.0, False),
        (Backends(), False, 60.0, False),
    ):
        observed = Observed(pools=(pool,), route=ObservedRoute(backends, START, answered))
        holding = held(observed, WEIGHTED, after(seconds))
        assert (pool.name in holding) == holds
        assert kept(pool, 0, holding) == (1 if holds else 0)
        assert kept(pool, 2, holding) == 2
    dead = replace(pool, pods=tuple(replace(pod, ready_since=None) for pod in pool.pods))
    assert kept(dead, 0, frozenset({pool.name})) == 0  # nobody is lost with what answers nobody


# In a simulated cluster


def ready(world: SimulatedCluster) -> Counter[str]:
    return Counter(pod.pool for pod in world.pods.values() if pod.ready)


def behind_a_gateway(replicas: int, **rollout: Any) -> tuple[SimulatedCluster, Desired]:
    """Version 1 has settled, and a gateway leads to it."""
    world, old = running(replicas=replicas, rollout=rollout)
    world.gateway = SimulatedGateway(PROPAGATION)
    old = replace(old, weighted=True)
    for _ in range(5):
        world.step(old)
        world.tick(1)
    assert world.gateway.observed(world.now) is not None
    return world, old


def asked(old: Desired, replicas: int, steps: list[dict[str, int]], **rollout: Any) -> Desired:
    return replace(second(old, replicas=replicas, steps=steps, strategy="Surge", **rollout), weighted=True)


def lost(world: SimulatedCluster) -> list[str]:
    """What a gateway may do now that would fail requests."""
    assert world.gateway is not None
    pods = ready(world)
    found = []
    for backends in world.gateway.may_follow(world.now):
        if not pods:
            found.append("no pod at all")
        found += [
            f"{name} has weight {weight} and no pod or no Service"
            for name, weight in backends.pools.items()
            if weight and (not pods[name] or name not in world.gateway.services)
        ]
    return found


def go(world: SimulatedCluster, wanted: Desired, until: Any, passes: int = 600) -> tuple[Desired, Facts]:
    """As `settle`, with nothing lost at any moment."""
    for _ in range(passes):
        facts = world.step(wanted)
        wanted = remembered(wanted, facts)
        assert lost(world) == [], world.log[-30:]
        if until(world, facts):
            return wanted, facts
        world.tick(1)
        assert lost(world) == [], world.log[-30:]
    raise AssertionError(f"not there: {facts}\n" + "\n".join(world.log[-40:]))


def held_at(step: int) -> Any:
    """The step is reached, and waits for its promotion."""
    return lambda _, facts: facts.canary is not None and facts.canary.step == step and facts.stage is Stage.PAUSED


@pytest.mark.parametrize(("replicas", "share"), [(2, 10), (3, 5), (3, 50), (4, 33), (3, 90), (5, 99)])
def test_a_step_is_held_only_once_gateways_give_the_new_revision_exactly_its_share(replicas: int, share: int) -> None:
    world, old = behind_a_gateway(replicas)
    new, _ = go(world, asked(old, replicas, [{"weight": share}]), held_at(1))
    assert world.gateway is not None
    [pool] = [pool.name for pool in world.pools.values() if pool.assignment.promoted == new.target.name]  # type: ignore[union-attr]
    assert abs(world.gateway.share(ready(world), pool) - Fraction(share, 100)) < Fraction(1, 1000)


def test_a_step_waits_for_a_gateway_that_is_slow_and_says_so() -> None:
    world, old = behind_a_gateway(3)
    gateway = world.gateway
    assert gateway is not None
    gateway.answers_in = 60
    waited: set[str] = set()

    def at_first(world: SimulatedCluster, facts: Facts) -> bool:
        waited.add(facts.waiting)
        return bool(held_at(1)(world, facts))

    go(world, asked(old, 3, [{"weight": 10}]), at_first)
    assert gateway.share(ready(world), "minilm-1") == Fraction(1, 10)
    assert any("Gateways and pods to give" in each for each in waited), waited


def test_one_replica_has_the_share_of_its_pods_and_no_pool_a_weight() -> None:
    world, old = behind_a_gateway(1)
    new, _ = go(world, asked(old, 1, [{"weight": 10}]), held_at(1))
    assert world.gateway is not None
    assert all(not any(each.backends.pools.values()) for each in world.gateway.written)
    go(world, replace(new, hand=Hand(promote=new.target.name)), lambda _, facts: facts.complete)


@pytest.mark.parametrize("seed", range(12))
def test_no_request_is_lost_by_any_route_on_the_way_and_none_is_left_behind(seed: int) -> None:
    random = Random(seed)
    replicas = random.randint(1, 5)
    steps = [
        {"weight": weight, "pauseSeconds": random.choice([0, 3, 15])}
        for weight in sorted(random.sample(range(1, 100), random.randint(1, 4)))
    ]
    room = random.choice([{"maxSurge": 1}, {"maxSurge": 3}, {"maxSurge": 0, "maxUnavailable": 1}])
    world, old = behind_a_gateway(replicas)
    gateway = world.gateway
    assert gateway is not None
    gateway.answers_in = random.choice([0, 1, 7])
    go(world, asked(old, replicas, steps, **room), lambda _, facts: facts.complete)
    after_it = replace(asked(old, replicas, steps, **room), current=asked(old, replicas, steps).target.name)
    go(world, after_it, lambda w, _: not w.gateway.services and not w.gateway.written[-1].backends.pools)


@pytest.mark.parametrize("seed", range(12))
def test_a_change_of_mind_at_any_moment_loses_no_request(seed: int) -> None:
    random = Random(100 + seed)
    replicas = random.randint(2, 4)
    world, old = behind_a_gateway(replicas)
    steps = [{"weight": random.randint(1, 50)}, {"weight": random.randint(51, 99)}]
    new = asked(old, replicas, steps)
    passes = random.randint(1, 60)
    promoted = f"{new.target.name}/1"
    for number in range(passes):
        new = replace(new, hand=Hand(promote=promoted if number > passes // 2 else ""))
        new = remembered(new, world.step(new))
        assert lost(world) == []
        world.tick(1)
        assert lost(world) == []
    match random.randrange(3):
        case 0:
            new = replace(new, hand=Hand(abort=new.target.name))
            done: Any = lambda w, _: set(w.serving()) == {old.target.name} and len(w.serving()) == replicas  # noqa: E731
        case 1:
            new = retargeted(new, old)
            done = lambda _, facts: facts.complete  # noqa: E731
        case _:
            third = a_desired("3", replicas=replicas, rollout={**FAST, "steps": steps, "strategy": "Surge"})
            new = replace(retargeted(new, third), weighted=True, hand=Hand(promote=third.target.name))
            done = lambda _, facts: facts.complete  # noqa: E731
    go(world, new, done)


def test_while_a_gateway_does_not_answer_nothing_leaves_that_it_may_still_use() -> None:
    world, old = behind_a_gateway(3)
    gateway = world.gateway
    assert gateway is not None
    new, _ = go(world, asked(old, 3, [{"weight": 10}]), held_at(1))
    gateway.answers_in = None
    new = replace(new, hand=Hand(promote=new.target.name))
    for _ in range(100):
        facts = world.step(new)
        new = remembered(new, facts)
        assert lost(world) == []
        world.tick(1)
    assert old.target.name in world.serving()
    assert "Gateways to send nothing straight to minilm-0 any more" in facts.waiting
    gateway.come_back(world.now)
    go(world, new, lambda _, facts: facts.complete)


def test_a_killed_pod_of_a_weighed_pool_leaves_another_and_the_weight_is_taken_back() -> None:
    world, old = behind_a_gateway(2)
    gateway = world.gateway
    assert gateway is not None
    new, _ = go(world, asked(old, 2, [{"weight": 10}]), held_at(1))
    assert any(gateway.written[-1].backends.pools.values())
    world.kill(next(pod for pod in world.pods.values() if pod.pool == "minilm-0" and pod.ready))
    assert lost(world) == []
    world.step(new)
    assert not any(gateway.written[-1].backends.pools.values())
    go(world, new, held_at(1))


def test_a_rollout_without_weights_asks_for_nothing_of_gateways() -> None:
    world, old = behind_a_gateway(3)
    plain = replace(asked(old, 3, [{"weight": 10, "pauseSeconds": 5}]), weighted=False)
    settle(world, plain)
    assert world.gateway is not None
    assert [each.backends for each in world.gateway.written] == [Backends()]
    assert world.gateway.services == set()
