"""A version whose workers keep dying after a surge, each fact in a simulated world."""

from tests.operator.rollout.test_planner import FAST, desired, running
from tests.support.simulated_cluster import SimulatedCluster, retargeted, settle

from podium_crds.reasons import Reason
from podium_operator.state import Desired, Stage

ELSEWHERE = {"env": [{"name": "A", "value": "b"}]}
"""Needs other pods."""


def after_a_surge(replicas: int = 2) -> tuple[SimulatedCluster, Desired, Desired]:
    """A world in which the second version has just taken over in pods of its own."""
    world, old = running(replicas=replicas)
    new, _ = settle(world, retargeted(old, desired("2", replicas=replicas, **ELSEWHERE)))
    settle(world, new, until=lambda w, _: list(w.pools) == [1])
    return world, old, new


def test_a_version_whose_workers_die_after_a_surge_gives_way_to_the_one_before_in_new_pods() -> None:
    world, old, new = after_a_surge()
    world.crashes.add(new.target.name)
    wanted, facts = settle(
        world, new, until=lambda w, f: w.serving() == [old.target.name] * 2 and f.stage is Stage.FAILED
    )
    assert facts.problem is not None
    assert facts.problem.reason is Reason.RUNTIME_CRASH_LOOP
    settle(world, wanted, until=lambda w, _: w.live_revisions() == {old.target.name})
    before = len(world.log)
    for _ in range(60):
        world.step(wanted)
        world.tick(5)
    assert world.serving() == [old.target.name] * 2
    assert not [line for line in world.log[before:] if new.target.name in line], "it is not tried again"


def test_one_pod_whose_workers_die_speaks_not_against_a_version_that_serves_in_others() -> None:
    world, _, new = after_a_surge(replicas=3)
    pod = min(world.pods.values(), key=lambda pod: pod.name)
    for _ in range(30):
        pod._crash(new.target.name, world.now)
        facts = world.step(new)
        told = [problem.reason for problem in (facts.problem, facts.degraded) if problem is not None]
        assert Reason.RUNTIME_CRASH_LOOP not in told
        world.tick(1)
    assert len(world.pools) == 1


def test_a_version_that_has_served_for_longer_than_the_window_is_not_taken_back() -> None:
    world, _, new = after_a_surge()
    for _ in range(FAST["rollbackWindowSeconds"] + 5):
        world.step(new)
        world.tick(1)
    world.crashes.add(new.target.name)
    for _ in range(30):
        facts = world.step(new)
        world.tick(2)
    assert world.live_revisions() == {new.target.name}
    assert facts.degraded is not None
    assert facts.degraded.reason is Reason.RUNTIME_CRASH_LOOP
