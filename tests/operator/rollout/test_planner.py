"""Facts of the planner, each in a simulated world."""

from dataclasses import replace

import pytest
from tests.support.builders import a_desired
from tests.support.simulated_cluster import SimulatedCluster, remembered, retargeted, settle

from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutStrategy
from podium_operator.state import Desired, Stage

FAST = {"propagationSeconds": 2, "rollbackWindowSeconds": 30}


def desired(version: str = "1", *, replicas: int = 1, **spec: object) -> Desired:
    rollout = {**FAST, **spec.pop("rollout", {})}  # type: ignore[dict-item]
    return a_desired(version, replicas=replicas, rollout=rollout, **spec)


def running(
    version: str = "1", *, replicas: int = 1, gpus: int | None = None, **spec: object
) -> tuple[SimulatedCluster, Desired]:
    """A world in which that version has settled."""
    world = SimulatedCluster(gpus=gpus)
    wanted, _ = settle(world, desired(version, replicas=replicas, **spec))
    world.tick(5)
    return world, wanted


def test_a_first_start_makes_one_pool_with_all_replicas() -> None:
    world, wanted = running(replicas=3)
    assert world.serving() == [wanted.target.name] * 3
    assert list(world.pools) == [0]


def test_nothing_is_done_once_settled() -> None:
    world, wanted = running(replicas=2)
    world.tick(60)
    settle(world, wanted)
    before = len(world.log)
    for _ in range(50):
        world.tick(10)
        world.step(wanted)
    assert world.log[before:] == []


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_new_version_is_swapped_in_the_same_pods(replicas: int) -> None:
    world, old = running(replicas=replicas)
    pods = set(world.pods)
    new, facts = settle(world, retargeted(old, desired("2", replicas=replicas)))
    assert world.serving() == [new.target.name] * replicas
    assert set(world.pods) == pods
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.IN_PLACE


def test_the_old_revision_stays_loaded_for_the_rollback_window_and_then_goes() -> None:
    world, old = running(replicas=2)
    new, _ = settle(world, retargeted(old, desired("2", replicas=2)))
    assert world.live_revisions() == {old.target.name, new.target.name}
    settle(world, new, until=lambda w, _: w.live_revisions() == {new.target.name})
    promoted_at = world.pools[0].promoted_at
    assert promoted_at is not None
    assert (world.now - promoted_at).total_seconds() >= FAST["rollbackWindowSeconds"]


def test_going_back_within_the_window_loads_nothing() -> None:
    world, old = running(replicas=2)
    new, _ = settle(world, retargeted(old, desired("2", replicas=2)))
    tried = {name: set(pods) for name, pods in world.tried.items()}
    back, _ = settle(world, retargeted(new, desired("1", replicas=2)), passes=3)
    assert world.serving() == [back.target.name] * 2
    assert world.tried == tried


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_a_load_failure_touches_exactly_one_pod_and_the_old_serves_on(replicas: int) -> None:
    world, old = running(replicas=replicas)
    broken = desired("2", replicas=replicas)
    world.fails.add(broken.target.name)
    seen: list[int] = []
    wanted = retargeted(old, broken)
    wanted, facts = settle(
        world,
        wanted,
        until=lambda w, f: seen.append(len(w.serving())) or f.stage is Stage.FAILED,  # type: ignore[func-returns-value]
    )
    assert min(seen) == replicas
    assert len(world.tried[broken.target.name]) == 1
    assert facts.problem is not None
    assert facts.problem.reason is Reason.LOAD_FAILED
    for _ in range(40):
        world.step(wanted)
        world.tick(5)
    assert len(world.tried[broken.target.name]) == 1
    assert world.serving() == [old.target.name] * replicas
    assert world.live_revisions() == {old.target.name}


def test_a_failed_revision_is_tried_again_only_when_the_user_asks() -> None:
    world, old = running()
    broken = desired("2")
    world.fails.add(broken.target.name)
    wanted, _ = settle(world, retargeted(old, broken), until=lambda _, f: f.stage is Stage.FAILED)
    for _ in range(20):
        world.step(wanted)
        world.tick(2)
    world.fails.clear()
    asked = replace(wanted, retry_token="again")
    new, _ = settle(world, asked)
    assert world.serving() == [new.target.name]


def test_a_failed_revision_is_tried_again_after_another_spec_in_between() -> None:
    world, old = running()
    broken = desired("2")
    world.fails.add(broken.target.name)
    wanted, _ = settle(world, retargeted(old, broken), until=lambda _, f: f.stage is Stage.FAILED)
    wanted, _ = settle(world, retargeted(wanted, desired("1")))
    world.tick(5)
    world.step(wanted)
    world.fails.clear()
    wanted, _ = settle(world, retargeted(wanted, desired("2")))
    assert world.serving() == [broken.target.name]


def test_a_superseded_candidate_leaves_before_the_next_one_loads() -> None:
    world, old = running(replicas=2)
    wanted = retargeted(old, desired("2", replicas=2))
    for _ in range(2):
        world.step(wanted)
        world.tick(1)
    new, _ = settle(world, retargeted(wanted, desired("3", replicas=2)))
    assert world.serving() == [new.target.name] * 2


def test_a_third_revision_waits_until_the_warm_one_has_left() -> None:
    world, first = running(replicas=2)
    second, _ = settle(world, retargeted(first, desired("2", replicas=2)))
    third, _ = settle(world, retargeted(second, desired("3", replicas=2)))
    assert world.serving() == [third.target.name] * 2
    assert world.live_revisions() == {second.target.name, third.target.name}


def test_a_changed_shape_surges_into_a_new_pool_and_removes_the_old() -> None:
    world, old = running(replicas=3)
    new, facts = settle(world, retargeted(old, desired("1", replicas=3, env=[{"name": "A", "value": "b"}])))
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.SURGE
    assert world.serving() == [new.target.name] * 3
    settle(world, new, until=lambda w, _: list(w.pools) == [1])


def test_a_surge_whose_first_pod_fails_costs_that_pod_alone() -> None:
    world, old = running(replicas=3)
    broken = desired("2", replicas=3, env=[{"name": "A", "value": "b"}], rollout={"maxSurge": 3})
    world.fails.add(broken.target.name)
    wanted, _ = settle(world, retargeted(old, broken), until=lambda _, f: f.stage is Stage.FAILED)
    settle(world, wanted, until=lambda w, _: list(w.pools) == [0])
    assert len(world.tried[broken.target.name]) == 1
    assert world.serving() == [old.target.name] * 3


def test_going_back_during_a_surge_keeps_the_old_pods() -> None:
    world, old = running(replicas=3)
    pods = set(world.pods)
    wanted = retargeted(old, desired("1", replicas=3, env=[{"name": "A", "value": "b"}]))
    for _ in range(5):
        world.step(wanted)
        world.tick(1)
    assert len(world.pools) == 2
    back, _ = settle(world, retargeted(wanted, desired("1", replicas=3)))
    assert pods <= set(world.pods)
    assert world.serving() == [back.target.name] * 3


def test_a_surge_without_a_free_gpu_waits_and_goes_on_when_there_is_room() -> None:
    world, old = running(replicas=1, gpus=1, resources={"limits": {"nvidia.com/gpu": 1}})
    shape = {"resources": {"limits": {"nvidia.com/gpu": 1}}, "env": [{"name": "A", "value": "b"}]}
    wanted, facts = settle(world, retargeted(old, desired("2", **shape)), until=lambda _, f: f.stage is Stage.BLOCKED)
    assert facts.problem is not None
    assert facts.problem.reason is Reason.INSUFFICIENT_GPU
    assert facts.available
    assert world.serving() == [old.target.name]
    assert list(world.pools) == [0], "no pod waits for what is not there"
    world.gpus = 2
    new, _ = settle(world, wanted)
    assert world.serving() == [new.target.name]


def test_a_swap_in_place_needs_no_free_gpu() -> None:
    gpu = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    world, old = running(replicas=1, gpus=1, **gpu)
    new, _ = settle(world, retargeted(old, desired("2", **gpu)))
    assert world.serving() == [new.target.name]


def test_a_gpu_pod_that_fits_nowhere_names_the_scheduler_s_reason() -> None:
    world = SimulatedCluster(gpus=1)
    wanted = desired("1", replicas=2, resources={"limits": {"nvidia.com/gpu": 1}})
    _, facts = settle(world, wanted, until=lambda _, f: f.stage is Stage.BLOCKED)
    assert facts.problem is not None
    assert facts.problem.reason is Reason.INSUFFICIENT_GPU
    assert "Insufficient nvidia.com/gpu" in facts.problem.message


def test_scaling_is_no_rollout() -> None:
    world, old = running(replicas=1)
    bigger = retargeted(old, desired("1", replicas=3))
    facts = world.step(bigger)
    assert facts.complete
    settle(world, bigger, until=lambda w, _: len(w.serving()) == 3)
    smaller = retargeted(old, desired("1", replicas=2))
    settle(world, smaller, until=lambda w, _: len(w.serving()) == 2)


def test_scaled_to_zero_and_back_comes_up_at_the_newest_version() -> None:
    world, old = running(replicas=2)
    zero = retargeted(old, desired("1", replicas=0))
    zero, facts = settle(world, zero, until=lambda w, _: not w.pods)
    assert facts.stage is Stage.SCALED_TO_ZERO
    zero, _ = settle(world, retargeted(zero, desired("2", replicas=0)), passes=5, until=lambda w, _: len(w.log) > 3)
    new, _ = settle(world, retargeted(zero, desired("2", replicas=2)))
    assert world.serving() == [new.target.name] * 2


def test_a_member_with_no_replicas_has_no_pods() -> None:
    world = SimulatedCluster()
    facts = world.step(desired("1", replicas=0))
    assert facts.stage is Stage.SCALED_TO_ZERO
    assert world.pools == {}


def test_a_paused_rollout_is_planned_and_not_begun() -> None:
    world, old = running(replicas=2)
    paused = retargeted(old, desired("2", replicas=2, rollout={"paused": True}))
    for _ in range(10):
        facts = world.step(paused)
        world.tick(1)
    assert facts.stage is Stage.PAUSED
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.IN_PLACE
    assert world.live_revisions() == {old.target.name}


def test_a_paused_surge_makes_no_pool() -> None:
    world, old = running(replicas=2)
    shape = [{"name": "A", "value": "b"}]
    paused = retargeted(old, desired("2", replicas=2, rollout={"paused": True}, env=shape))
    for _ in range(10):
        facts = world.step(paused)
        world.tick(1)
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.SURGE
    assert list(world.pools) == [0]


def test_the_lone_pod_of_a_cordoned_node_gets_a_second_beside_it() -> None:
    world, wanted = running(replicas=1)
    world.cordoned = True
    settle(world, wanted, until=lambda w, _: len(w.serving()) == 2)
    world.cordoned = False
    settle(world, wanted, until=lambda w, _: len(w.serving()) == 1)


def test_a_container_restarted_while_the_candidate_loads_comes_up_at_the_old_and_the_swap_goes_on() -> None:
    world, old = running()
    wanted = retargeted(old, desired("2"))
    for _ in range(2):
        world.step(wanted)
        world.tick(1)
    [pod] = world.pods.values()
    assert set(pod.held) == {old.target.name, wanted.target.name}
    world.restart(pod)
    facts = world.step(wanted)
    assert world.pools[0].assignment is not None
    assert world.pools[0].assignment.promoted == old.target.name
    assert not facts.complete
    new, _ = settle(world, wanted)
    assert world.serving() == [new.target.name]


def test_a_container_restarted_after_the_flip_comes_up_at_the_new_despite_a_stale_mount() -> None:
    world, old = running()
    new, _ = settle(world, retargeted(old, desired("2")))
    [pod] = world.pods.values()
    assert pod.mounted is not None
    assert pod.mounted.promoted == old.target.name
    world.restart(pod)
    world.tick(10)
    assert world.serving() == [new.target.name]


def test_a_stale_leader_does_nothing() -> None:
    world, old = running()
    late, _ = settle(world, retargeted(replace(old, lease_transitions=1), desired("2")))
    before = len(world.log)
    stale = replace(retargeted(late, desired("3")), lease_transitions=0)
    facts = world.step(stale)
    assert world.log[before:] == []
    assert facts.problem is not None
    assert facts.problem.reason is Reason.RECONCILE_ERROR


def test_a_tuning_change_keeps_the_workers() -> None:
    world, old = running()
    new, facts = settle(world, retargeted(old, desired("1", timeoutSeconds=7)))
    assert facts.strategy is not None
    assert "only settings" in facts.strategy.reason
    assert world.serving() == [new.target.name]


def test_a_shape_change_in_place_is_refused_with_what_to_do() -> None:
    world, old = running()
    wanted = retargeted(old, desired("1", env=[{"name": "A", "value": "b"}], rollout={"strategy": "InPlace"}))
    facts = world.step(wanted)
    assert facts.stage is Stage.BLOCKED
    assert facts.problem is not None
    assert facts.problem.reason is Reason.INVALID_SPEC
    assert "Surge" in facts.problem.message


def test_a_broken_first_version_is_replaced_at_once() -> None:
    world = SimulatedCluster()
    broken = desired("1", replicas=2)
    world.fails.add(broken.target.name)
    wanted, facts = settle(world, broken, until=lambda _, f: f.stage is Stage.FAILED)
    assert not facts.available
    new, _ = settle(world, retargeted(wanted, desired("2", replicas=2)))
    assert world.serving() == [new.target.name] * 2


def test_digests_are_pinned_at_the_first_load_and_given_to_every_later_one() -> None:
    world, wanted = running()
    assert world.revisions[wanted.target.name].record.digests.keys() == {"minilm"}
    settle(world, wanted, until=lambda w, _: _pinned(w))


def _pinned(world: SimulatedCluster) -> bool:
    assignment = world.pools[0].assignment
    return assignment is not None and assignment.revisions[0].members[0].artifact.digest is not None


def test_what_is_going_to_change_is_announced_before_and_kept_until_it_is_done() -> None:
    world, old = running(replicas=2)
    wanted = retargeted(old, desired("2", replicas=2))
    facts = world.step(wanted)
    assert facts.plan is not None
    assert facts.plan.strategy is RolloutStrategy.IN_PLACE
    assert "version: 1 → 2" in facts.plan.changes
    assert facts.plan.gpus_needed == 0
    _, done = settle(world, wanted)
    assert done.plan is None


def test_a_surge_announces_the_gpus_that_it_needs() -> None:
    gpu = {"resources": {"limits": {"nvidia.com/gpu": 2}}}
    world, old = running(replicas=2, gpus=8, **gpu)
    facts = world.step(retargeted(old, desired("2", replicas=2, env=[{"name": "A", "value": "b"}], **gpu)))
    assert facts.plan is not None
    assert facts.plan.gpus_needed == 2
    assert facts.plan.traffic_percents == (50, 100)


def test_a_rollout_in_which_nothing_moves_exceeds_its_deadline_and_goes_on_all_the_same() -> None:
    world, old = running()
    wanted = retargeted(old, desired("2", rollout={"progressDeadlineSeconds": 60}))
    [pod] = world.pods.values()
    pod.reachable = False
    _, facts = settle(world, wanted, until=lambda _, f: f.stage is Stage.BLOCKED)
    assert facts.problem is not None
    assert facts.problem.reason is Reason.RUNTIME_UNREACHABLE
    pod.reachable = True
    settle(world, wanted)


def test_a_pod_that_cannot_load_what_others_serve_degrades_and_rolls_nothing_back() -> None:
    world, old = running()
    new, _ = settle(world, retargeted(old, desired("2")))
    world.fails.add(new.target.name)
    bigger = retargeted(new, desired("2", replicas=2))
    bigger, facts = settle(world, bigger, until=lambda _, f: f.degraded is not None)
    assert facts.degraded is not None
    assert facts.degraded.reason is Reason.LOAD_FAILED
    assert facts.complete
    assert world.serving() == [new.target.name]


def test_where_only_recreate_fits_and_is_allowed_the_gap_is_declared_first() -> None:
    gpu = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    world, old = running(replicas=1, gpus=1, **gpu)
    shape = {**gpu, "env": [{"name": "A", "value": "b"}]}
    wanted = retargeted(old, desired("2", rollout={"allowRecreate": True}, **shape))
    facts = world.step(wanted)
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.RECREATE
    assert facts.plan is not None
    assert facts.plan.expected_gap_seconds > 0
    new, _ = settle(world, remembered(wanted, facts))
    assert world.serving() == [new.target.name]


def test_a_lost_record_of_the_serving_revision_does_not_stop_the_next_rollout() -> None:
    world, old = running()
    del world.revisions[old.target.name]
    new, _ = settle(world, retargeted(replace(old, current=None), desired("2")))
    assert world.serving() == [new.target.name]


def test_a_deleted_configmap_is_written_again_as_the_pods_have_it() -> None:
    world, old = running()
    new, _ = settle(world, retargeted(old, desired("2")))
    world.pools[0].assignment = None
    settle(world, new, until=lambda w, _: w.pools[0].assignment is not None)
    assert world.pools[0].assignment is not None
    assert world.pools[0].assignment.promoted == new.target.name
    assert world.serving() == [new.target.name]


def test_a_deleted_deployment_is_made_again() -> None:
    world, wanted = running(replicas=2)
    world.pools[0].stamp, world.pools[0].replicas = None, 0
    for pod in list(world.pods.values()):
        world.kill(pod)
    settle(world, wanted, until=lambda w, _: len(w.serving()) == 2)


def test_a_broken_first_version_gives_its_gpu_back_to_a_corrected_one() -> None:
    gpu = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    world = SimulatedCluster(gpus=1)
    broken = desired("1", **gpu)
    world.fails.add(broken.target.name)
    wanted, _ = settle(world, broken, until=lambda _, f: f.stage is Stage.FAILED)
    new, _ = settle(world, retargeted(wanted, desired("1", env=[{"name": "A", "value": "b"}], **gpu)))
    assert world.serving() == [new.target.name]


def test_a_version_that_was_changed_while_nothing_ran_and_fails_gives_way_to_the_last_good_one() -> None:
    world, old = running()
    zero, _ = settle(world, retargeted(old, desired("1", replicas=0)), until=lambda w, _: not w.pods)
    broken = desired("2")
    world.fails.add(broken.target.name)
    zero, _ = settle(world, retargeted(zero, desired("2", replicas=0)), until=lambda w, _: len(w.revisions) == 2)
    settle(world, retargeted(zero, broken), until=lambda w, f: f.stage is Stage.FAILED and bool(w.serving()))
    assert world.serving() == [old.target.name]
