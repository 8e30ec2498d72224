"""A pod that has no room for a candidate beside what it serves: what becomes of the rollout, in a simulated world."""

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.rollout.test_planner import desired, running
from tests.support.simulated_cluster import SimulatedCluster, remembered, retargeted, settle

from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutStrategy
from podium_operator.rollout import failures
from podium_operator.state import Desired, Facts, Hand, Stage

GPU = {"resources": {"limits": {"nvidia.com/gpu": 1}}}


def refused(
    *, replicas: int = 2, rollout: dict[str, Any] | None = None, gpus: int | None = None, **spec: Any
) -> tuple[SimulatedCluster, Desired, Desired]:
    """A world that serves version 1 and is asked for a version 2 that fits in a pod only alone, which no operator can
    know; both."""
    world, old = running(replicas=replicas, gpus=gpus, **spec)
    new = retargeted(old, desired("2", replicas=replicas, rollout=rollout or {}, **spec))
    world.only_alone.add(new.target.name)
    return world, old, new


def watched(world: SimulatedCluster, wanted: Desired, passes: int = 60) -> tuple[Desired, set[RolloutStrategy], Facts]:
    """So many passes, two seconds apart: which strategies status names on the way."""
    seen = set()
    for _ in range(passes):
        facts = world.step(wanted)
        wanted = remembered(wanted, facts)
        if facts.strategy is not None:
            seen.add(facts.strategy.resolved)
        world.tick(2)
    return wanted, seen, facts


@pytest.mark.parametrize("replicas", [1, 3])
def test_what_a_pod_has_no_room_for_comes_in_new_pods_and_status_says_why(replicas: int) -> None:
    world, _, wanted = refused(replicas=replicas)
    began, facts = settle(
        world, wanted, until=lambda _, f: f.strategy is not None and f.strategy.resolved is RolloutStrategy.SURGE
    )
    assert facts.strategy is not None
    assert "no room for both revisions in a pod: pod minilm-0-" in facts.strategy.reason
    assert facts.plan is not None
    assert facts.plan.strategy is RolloutStrategy.SURGE
    new, _ = settle(world, began)
    settle(world, new, until=lambda w, _: list(w.pools) == [1])
    assert world.serving() == [new.target.name] * replicas
    assert world.revisions[new.target.name].quarantine is None


def test_only_one_pod_of_the_old_ones_is_ever_asked_and_lets_go_of_what_it_refused() -> None:
    world, old, wanted = refused(replicas=3)
    began, _ = settle(world, wanted, until=lambda w, _: len(w.pools) == 2)
    world.tick()
    before = {pod.name for pod in world.pods.values() if pod.pool == "minilm-0"}
    assert {name for pod in world.pods.values() if pod.name in before for name in pod.held} == {old.target.name}
    settle(world, began)
    assert len(world.tried[wanted.target.name] & before) == 1


def test_a_candidate_that_is_overtaken_by_a_surge_leaves_the_old_pods() -> None:
    world, old = running(replicas=2)
    wanted = retargeted(old, desired("2", replicas=2))
    wanted, _ = settle(world, wanted, until=lambda w, _: any(len(pod.held) == 2 for pod in w.pods.values()))
    third = retargeted(wanted, desired("3", replicas=2, env=[{"name": "A", "value": "b"}]))
    third, _ = settle(world, third, until=lambda w, _: len(w.pools) == 2)
    world.tick()
    assert {name for pod in world.pods.values() if pod.pool == "minilm-0" for name in pod.held} == {old.target.name}


def test_an_operator_that_dies_after_any_action_comes_to_the_same_end() -> None:
    for dies_after in range(3):
        world, _, wanted = refused()
        for turn in range(80):
            # What a pass writes to status comes before what it does.
            wanted = remembered(wanted, world.step(wanted, crash_after=dies_after if turn % 2 else None))
            world.tick()
        assert world.serving() == [wanted.target.name] * 2, world.log


def test_with_strategy_in_place_it_is_a_failure_that_says_what_to_change() -> None:
    world, old, wanted = refused(rollout={"strategy": "InPlace"})
    wanted, facts = settle(world, wanted, until=lambda _, f: f.stage is Stage.FAILED)
    wanted, seen, facts = watched(world, wanted)
    assert seen == {RolloutStrategy.IN_PLACE}
    assert facts.stage is Stage.FAILED
    assert facts.problem is not None
    assert facts.problem.reason is Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP
    assert "set rollout.strategy to Auto or Surge" in facts.problem.message
    assert world.serving() == [old.target.name] * 2
    assert len(world.tried[wanted.target.name]) == 1


@pytest.mark.parametrize("strategy", ["Auto", "Surge"])
def test_once_another_strategy_is_allowed_it_goes_on_by_itself(strategy: str) -> None:
    world, _, wanted = refused(rollout={"strategy": "InPlace"})
    wanted, _ = settle(world, wanted, until=lambda _, f: f.stage is Stage.FAILED)
    wanted, _ = settle(world, retargeted(wanted, desired("2", replicas=2, rollout={"strategy": strategy})))
    assert world.serving() == [wanted.target.name] * 2


def test_without_a_free_gpu_it_waits_for_one_asks_no_pod_again_and_goes_on_by_itself() -> None:
    world, old, wanted = refused(replicas=1, gpus=1, **GPU)
    wanted, facts = settle(world, wanted, until=lambda _, f: f.stage is Stage.BLOCKED)
    wanted, _, facts = watched(world, wanted)
    assert facts.stage is Stage.BLOCKED
    assert facts.problem is not None
    assert facts.problem.reason is Reason.INSUFFICIENT_GPU
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.SURGE
    assert world.serving() == [old.target.name]
    pushes = [line for line in world.log if "Push" in line and wanted.target.name[-4:] in line]
    assert len(pushes) == 1, pushes
    world.gpus = 2
    new, _ = settle(world, wanted)
    assert world.serving() == [new.target.name]


def test_where_nothing_else_fits_and_a_gap_is_allowed_the_old_pods_end_first() -> None:
    world, old, wanted = refused(replicas=1, gpus=1, rollout={"allowRecreate": True}, **GPU)
    began, facts = settle(
        world, wanted, until=lambda _, f: f.strategy is not None and f.strategy.resolved is RolloutStrategy.RECREATE
    )
    assert facts.plan is not None
    assert facts.plan.expected_gap_seconds > 0
    new, _ = settle(world, began)
    assert world.serving() == [new.target.name]
    new, _ = settle(world, new, until=lambda w, _: len(w.pools) == 1)
    undone = replace(new, hand=Hand(rollback=new.target.name))
    settle(world, undone, until=lambda w, _: w.serving() == [old.target.name])


def came_up_at_the_first() -> tuple[SimulatedCluster, Desired, Desired]:
    """Two pods that serve version 1, which was never complete, in a pool that promotes version 2 already."""
    world = SimulatedCluster()
    first, _ = settle(world, desired("1", replicas=2), until=lambda w, _: len(w.serving()) == 2)
    for pod in world.pods.values():
        world.restart(pod)
    wanted = retargeted(replace(first, current=None), desired("2", replicas=2))
    world.only_alone.add(wanted.target.name)
    wanted = remembered(wanted, world.step(wanted))
    world.tick(7)
    assert world.serving() == [first.target.name] * 2
    assert world.pools[0].assignment is not None
    assert world.pools[0].assignment.promoted == wanted.target.name
    return world, first, wanted


def test_pods_that_came_up_at_what_was_before_and_have_no_room_for_what_their_pool_promotes_are_replaced() -> None:
    world, _, wanted = came_up_at_the_first()
    new, _ = settle(world, wanted)
    assert world.serving() == [new.target.name] * 2
    settle(world, new, until=lambda w, _: list(w.pools) == [1])


def test_such_pods_are_replaced_as_well_where_a_third_version_is_asked_for_meanwhile() -> None:
    world, first, wanted = came_up_at_the_first()
    world.step(wanted)
    world.tick(5)
    assert world.serving() == [first.target.name] * 2
    new, _ = settle(world, retargeted(wanted, desired("3", replicas=2)))
    assert world.serving() == [new.target.name] * 2


def test_a_gap_is_not_taken_where_new_pods_fit() -> None:
    world, _, wanted = refused(replicas=1, gpus=2, rollout={"allowRecreate": True}, **GPU)
    _, seen, facts = watched(world, wanted)
    assert facts.complete
    assert seen == {RolloutStrategy.IN_PLACE, RolloutStrategy.SURGE}


def test_going_back_in_the_middle_keeps_the_old_pods_and_afterwards_makes_new_ones() -> None:
    world, old, wanted = refused(replicas=2)
    pods = set(world.pods)
    began, _ = settle(world, wanted, until=lambda w, _: len(w.pools) == 2)
    back, _ = settle(world, retargeted(began, desired("1", replicas=2)))
    assert pods <= set(world.pods)
    new, _ = settle(world, retargeted(back, desired("2", replicas=2)))
    assert world.serving() == [new.target.name] * 2
    new, _ = settle(world, new, until=lambda w, _: len(w.pools) == 1)
    back, facts = settle(world, retargeted(new, desired("1", replicas=2)))
    assert world.serving() == [old.target.name] * 2
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.SURGE


def test_a_version_rolled_back_by_hand_gives_way_to_new_pods_since_the_old_has_no_room_beside_it() -> None:
    world, old, wanted = refused(replicas=2)
    new, _ = settle(world, wanted)
    new, _ = settle(world, new, until=lambda w, _: len(w.pools) == 1)
    undone = replace(new, hand=Hand(rollback=new.target.name))
    settle(world, undone, until=lambda w, _: w.serving() == [old.target.name] * 2)
    assert len(world.tried[old.target.name]) == 4, "two pods at first, two when it came back"


def test_a_refused_version_whose_workers_die_in_its_own_pods_is_still_taken_back() -> None:
    world, old, wanted = refused(replicas=2)
    new, _ = settle(world, wanted)
    new, _ = settle(world, new, until=lambda w, _: len(w.pools) == 1)
    world.crashes.add(new.target.name)
    _, facts = settle(world, new, until=lambda w, f: w.serving() == [old.target.name] * 2 and f.stage is Stage.FAILED)
    assert facts.problem is not None
    assert facts.problem.reason is Reason.RUNTIME_CRASH_LOOP


def test_a_refused_version_that_fails_in_its_own_pods_is_given_up_and_not_tried_again() -> None:
    world, old, wanted = refused(replicas=2)
    began, _ = settle(world, wanted, until=lambda w, _: len(w.pools) == 2)
    world.fails.add(wanted.target.name)
    failed, facts = settle(world, began, until=lambda _, f: f.stage is Stage.FAILED)
    failed, seen, facts = watched(world, failed)
    assert facts.problem is not None
    assert facts.problem.reason is Reason.LOAD_FAILED
    assert world.serving() == [old.target.name] * 2
    assert list(world.pools) == [0]
    assert RolloutStrategy.IN_PLACE not in seen


def test_a_candidate_that_dies_of_its_own_limit_while_it_loads_is_a_failed_load() -> None:
    world, old, wanted = refused(replicas=2)
    world.only_alone.clear()
    world.fails_by[wanted.target.name] = Reason.LOAD_FAILED
    wanted, _ = settle(world, wanted, until=lambda _, f: f.stage is Stage.FAILED)
    wanted, seen, facts = watched(world, wanted)
    assert seen == {RolloutStrategy.IN_PLACE}
    assert facts.problem is not None
    assert facts.problem.reason is Reason.LOAD_FAILED
    assert world.serving() == [old.target.name] * 2
    assert len(world.tried[wanted.target.name]) == 1


PART: dict[str, Any] = {**GPU, "gpuFraction": "0.4"}


def test_parts_of_gpus_that_a_pod_finds_no_place_for_come_in_new_pods() -> None:
    world, _, wanted = refused(replicas=1, gpus=2, **PART)
    world.only_alone.clear()
    world.fails_by[wanted.target.name] = Reason.INSUFFICIENT_GPU
    began, _ = settle(world, wanted, until=lambda w, _: len(w.pools) == 2)
    world.fails_by.clear()
    new, _ = settle(world, began)
    assert world.serving() == [new.target.name]


def test_a_pod_without_any_gpu_is_no_matter_of_room() -> None:
    world, old, wanted = refused(replicas=1)
    world.only_alone.clear()
    world.fails_by[wanted.target.name] = Reason.INSUFFICIENT_GPU
    _, facts = settle(world, wanted, until=lambda _, f: f.stage is Stage.FAILED)
    assert facts.problem is not None
    assert facts.problem.reason is Reason.INSUFFICIENT_GPU
    assert world.serving() == [old.target.name]


def test_a_refusal_of_any_length_fits_in_status() -> None:
    world, _, wanted = refused(replicas=1)
    settle(world, wanted, until=lambda w, _: any(len(pod.held) == 2 for pod in w.pods.values()))
    world.tick(5)
    [pod] = world.pods.values()
    said = pod.held[wanted.target.name].failure
    assert said is not None
    pod.held[wanted.target.name].failure = said.model_copy(update={"message": "x" * 1024})
    told = failures.refusal(world.observed().pools, wanted.target)
    assert told is not None
    assert len(failures.refused_for_good(told).message) == failures.MESSAGE_CHARS
    facts = world.step(wanted)
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.SURGE
