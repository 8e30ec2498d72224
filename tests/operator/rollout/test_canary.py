"""Rollouts in steps: shares, pauses, analysis, and the user's hand on the wheel."""

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.rollout.test_planner import FAST, desired, running
from tests.support.builders import a_desired
from tests.support.simulated_cluster import SimulatedCluster, retargeted, settle

from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutStrategy
from podium_operator.state import Desired, Facts, Hand, Stage

STEPS = [{"weight": 10, "pauseSeconds": 20}, {"weight": 50, "pauseSeconds": 20}]
LIMITS = {"maxErrorPercent": 5, "maxP99LatencyPercent": 150, "minRequests": 50}


def second(old: Desired, *, replicas: int = 2, steps: list[dict[str, int]] | None = None, **rollout: Any) -> Desired:
    """Version 2 asked for, in steps."""
    wanted = a_desired("2", replicas=replicas, rollout={**FAST, "steps": steps or STEPS, **rollout})
    return retargeted(old, wanted)


def weights(world: SimulatedCluster, revision: str) -> set[int]:
    return {pod.shares.get(revision, 0) for pod in world.pods.values() if pod.ready}


def at_step(step: int) -> Any:
    return lambda _, facts: facts.canary is not None and facts.canary.step == step


def at_share(revision: str, share: int) -> Any:
    return lambda world, _: weights(world, revision) == {share}


def test_every_pod_divides_by_the_weight_of_the_step_and_the_last_step_leads_to_all() -> None:
    world, old = running(replicas=2)
    new = second(old)
    seen: list[int] = []

    def done(world: SimulatedCluster, facts: Facts) -> bool:
        shares = weights(world, new.target.name)
        if len(shares) == 1 and (share := next(iter(shares))) and seen[-1:] != [share]:
            seen.append(share)
        return facts.complete

    new, facts = settle(world, new, until=done)
    assert seen == [10, 50, 100]
    assert facts.canary is None
    assert world.serving() == [new.target.name] * 2


def test_the_plan_names_the_shares_before_any_is_taken() -> None:
    world, old = running(replicas=2)
    plan = world.step(second(old, steps=[{"weight": 10}, {"weight": 50}])).plan
    assert plan is not None
    assert plan.traffic_percents == (10, 50, 100)


def test_a_change_of_settings_alone_is_planned_without_steps() -> None:
    world, old = running(replicas=2)
    tuned = a_desired("1", replicas=2, timeoutSeconds=17, rollout={**FAST, "steps": STEPS})
    plan = world.step(retargeted(old, tuned)).plan
    assert plan is not None
    assert plan.traffic_percents == (100,), "the same workers answer before and after"


def test_no_weight_rises_before_every_ready_pod_has_the_new_revision_loaded() -> None:
    world, old = running(replicas=3)
    new = second(old, replicas=3)

    def shared(world: SimulatedCluster, _: Facts) -> bool:
        loaded = [pod for pod in world.pods.values() if new.target.name in pod.held]
        if len(loaded) < 3:
            assert weights(world, new.target.name) == {0}
        return weights(world, new.target.name) == {10}

    settle(world, new, until=shared)


def test_a_step_is_held_for_its_pause_though_the_operator_dies_and_another_leads() -> None:
    world, old = running(replicas=1)
    new, _ = settle(world, second(old, replicas=1), until=at_share(second(old).target.name, 10))
    begun = world.now
    new = replace(new, lease_transitions=new.lease_transitions + 1)
    settle(world, new, until=at_share(new.target.name, 50))
    assert 19 <= (world.now - begun).total_seconds() <= 25


def test_a_step_without_a_pause_waits_for_promotion() -> None:
    world, old = running(replicas=2)
    new, _ = settle(world, second(old, steps=[{"weight": 20}]), until=at_share(second(old).target.name, 20))
    for _ in range(5):
        world.tick(600)
        facts = world.step(new)
    assert facts.stage is Stage.PAUSED
    assert "podium promote" in facts.waiting
    assert weights(world, new.target.name) == {20}
    promoted, facts = settle(world, replace(new, hand=Hand(promote=f"{new.target.name}/1")))
    assert world.serving() == [promoted.target.name] * 2


def test_promoting_past_one_step_begins_the_next() -> None:
    world, old = running(replicas=1)
    steps = [{"weight": 10}, {"weight": 60}]
    new, _ = settle(world, second(old, replicas=1, steps=steps), until=at_share(second(old).target.name, 10))
    new, _ = settle(world, replace(new, hand=Hand(promote=f"{new.target.name}/1")), until=at_share(new.target.name, 60))
    world.tick(900)
    assert world.step(new).stage is Stage.PAUSED


def test_a_promotion_of_another_revision_moves_nothing() -> None:
    world, old = running(replicas=1)
    new, _ = settle(world, second(old, replicas=1, steps=[{"weight": 10}]), until=at_share(second(old).target.name, 10))
    facts = world.step(replace(new, hand=Hand(promote=old.target.name)))
    assert facts.stage is Stage.PAUSED


def test_too_few_requests_hold_the_step_and_say_so_after_the_progress_deadline() -> None:
    world, old = running(replicas=2)
    asked = second(old, analysis=LIMITS, progressDeadlineSeconds=120)
    new, _ = settle(world, asked, until=at_share(asked.target.name, 10))
    for _ in range(100):
        world.tick(2)
        facts = world.step(new)
    assert weights(world, new.target.name) == {10}
    assert facts.problem is not None
    assert facts.problem.reason is Reason.ANALYSIS_INCONCLUSIVE
    assert "fewer than 50" in facts.problem.message


def test_a_revision_within_the_limits_goes_on() -> None:
    world, old = running(replicas=2)
    asked = second(old, analysis=LIMITS)

    def done(world: SimulatedCluster, facts: Facts) -> bool:
        world.answer(100)
        return facts.complete

    new, _ = settle(world, asked, until=done)
    assert world.serving() == [new.target.name] * 2


@pytest.mark.parametrize(("fault", "words"), [("failing", "failed, at most 5 %"), ("slow", "at most 150 %")])
def test_a_revision_beyond_a_limit_is_given_up_and_the_old_one_gets_its_traffic_back(fault: str, words: str) -> None:
    world, old = running(replicas=2)
    asked = second(old, analysis=LIMITS)

    def given_up(world: SimulatedCluster, facts: Facts) -> bool:
        world.answer(200, **{fault: asked.target.name})  # type: ignore[arg-type]
        return facts.stage is Stage.FAILED and weights(world, asked.target.name) == {0}

    _, facts = settle(world, asked, until=given_up)
    assert world.serving() == [old.target.name] * 2
    assert facts.problem is not None
    assert facts.problem.reason is Reason.ANALYSIS_FAILED
    assert words in facts.problem.message
    assert not facts.complete
    assert facts.available


def test_a_pod_that_joins_in_the_middle_starts_at_the_old_and_gets_its_share_once_loaded() -> None:
    world, old = running(replicas=1)
    steps = [{"weight": 30}]
    new, _ = settle(world, second(old, replicas=1, steps=steps), until=at_share(second(old).target.name, 30))
    more = replace(second(new, replicas=2, steps=steps), canary=new.canary, chosen=new.chosen)
    settle(world, more, until=lambda w, _: len(w.pods) == 2 and weights(w, new.target.name) == {30})


def test_a_container_that_restarts_in_a_step_gets_its_share_again() -> None:
    world, old = running(replicas=2)
    new, _ = settle(world, second(old, steps=[{"weight": 30}]), until=at_share(second(old).target.name, 30))
    world.restart(next(iter(world.pods.values())))
    settle(world, new, until=lambda w, _: weights(w, new.target.name) == {30} and all(p.ready for p in w.pods.values()))


def test_pausing_in_a_step_keeps_the_shares_and_resuming_goes_on() -> None:
    world, old = running(replicas=1)
    new, _ = settle(world, second(old, replicas=1), until=at_share(second(old).target.name, 10))
    paused = replace(new, rollout=new.rollout.model_copy(update={"paused": True}))
    for _ in range(60):
        world.tick(1)
        facts = world.step(paused)
    assert facts.stage is Stage.PAUSED
    assert facts.canary == new.canary
    assert weights(world, new.target.name) == {10}
    resumed, _ = settle(world, replace(paused, rollout=new.rollout, canary=facts.canary))
    assert world.serving() == [resumed.target.name]


def test_a_tuning_change_and_a_first_start_have_no_steps() -> None:
    world, _ = settle_first(steps=STEPS)
    tuned = a_desired("1", rollout={**FAST, "steps": STEPS}, timeoutSeconds=7)
    _, facts = settle(world, retargeted(_, tuned), passes=15)
    assert facts.canary is None


def settle_first(**rollout: Any) -> tuple[SimulatedCluster, Desired]:
    world = SimulatedCluster()
    wanted, _ = settle(world, a_desired("1", rollout={**FAST, **rollout}))
    world.tick(5)
    return world, wanted


def test_in_a_surge_the_share_is_that_of_the_pods() -> None:
    world, old = running(replicas=4)
    asked = second(old, replicas=4, steps=[{"weight": 50}], strategy="Surge", maxSurge=2)
    new, _ = settle(world, asked, until=lambda _w, f: f.stage is Stage.PAUSED)
    world.tick(30)
    for _ in range(30):
        world.step(new)
        world.tick(1)
    assert sorted(world.serving()) == sorted([old.target.name] * 2 + [new.target.name] * 2)
    new, facts = settle(world, replace(new, hand=Hand(promote=new.target.name)))
    assert facts.strategy is not None
    assert facts.strategy.resolved is RolloutStrategy.SURGE
    assert world.serving() == [new.target.name] * 4


def test_one_replica_in_a_surge_keeps_the_old_beside_the_new_until_the_steps_are_over() -> None:
    world, old = running(replicas=1)
    asked = second(old, replicas=1, steps=[{"weight": 10}], strategy="Surge")
    new, _ = settle(world, asked, until=lambda _w, f: f.stage is Stage.PAUSED)
    assert sorted(world.serving()) == sorted([old.target.name, new.target.name])
    assert "podium promote" in world.step(new).waiting


def test_abort_gives_the_old_revision_all_traffic_and_is_a_no_op_once_complete() -> None:
    world, old = running(replicas=2)
    new, _ = settle(world, second(old, steps=[{"weight": 40}]), until=at_share(second(old).target.name, 40))
    aborted = replace(new, hand=Hand(abort=new.target.name))
    _, facts = settle(
        world, aborted, until=lambda w, f: w.serving() == [old.target.name] * 2 and f.stage is Stage.FAILED
    )
    assert facts.problem is not None
    assert facts.problem.reason is Reason.ROLLED_BACK
    settle(world, aborted, until=at_share(new.target.name, 0))
    resumed, _ = settle(world, replace(aborted, hand=Hand(promote=new.target.name)))
    assert world.serving() == [resumed.target.name] * 2
    before = len(world.log)
    facts = world.step(replace(resumed, hand=Hand(abort=new.target.name)))
    assert facts.complete
    assert world.log[before:] == []


def test_rollback_serves_the_warm_revision_without_loading_anything() -> None:
    world, old = running(replicas=2)
    new, _ = settle(world, retargeted(old, desired("2", replicas=2)))
    tried = {name: set(pods) for name, pods in world.tried.items()}
    back = replace(new, hand=Hand(rollback=new.target.name))
    back, facts = settle(world, back, until=lambda w, _: w.serving() == [old.target.name] * 2, passes=5)
    assert world.tried == tried
    back, facts = settle(world, back, until=lambda _w, f: f.current == old.target.name)
    assert facts.problem is not None
    assert facts.problem.reason is Reason.ROLLED_BACK
    for _ in range(90):
        world.tick(1)
        facts = world.step(back)
    assert world.serving() == [old.target.name] * 2
    forward, facts = settle(world, replace(back, hand=Hand()))
    assert world.serving() == [forward.target.name] * 2


def test_rollback_past_its_window_loads_the_revision_from_its_record() -> None:
    world, old = running(replicas=1)
    new, _ = settle(world, retargeted(old, desired("2")))
    for _ in range(80):
        world.tick(1)
        world.step(new)
    assert world.live_revisions() == {new.target.name}
    back = replace(new, hand=Hand(rollback=new.target.name))
    settle(world, back, until=lambda w, _: w.serving() == [old.target.name])


def test_rollback_to_a_named_revision_and_rollback_with_nowhere_to_go() -> None:
    world, first = running()
    middle, _ = settle(world, retargeted(first, desired("2")))
    world.tick(60)
    last, _ = settle(world, retargeted(middle, desired("3")))
    back = replace(last, hand=Hand(rollback=last.target.name, rollback_to=first.target.name))
    settle(world, back, until=lambda w, _: w.serving() == [first.target.name])
    alone, only = running()
    facts = alone.step(replace(only, hand=Hand(rollback=only.target.name)))
    assert facts.complete


def test_surge_pods_that_no_node_takes_are_taken_back_and_tried_again_when_room_appears() -> None:
    world, old = running(gpus=None)
    world.crowded = True
    timeout = 30
    asked = retargeted(
        old, a_desired("2", rollout={**FAST, "scheduleTimeoutSeconds": timeout}, env=[{"name": "A", "value": "b"}])
    )
    waiting, _ = settle(world, asked, until=lambda w, _: any(pod.node is None for pod in w.pods.values()))
    taken, facts = settle(world, waiting, until=lambda w, _: all(pod.node is not None for pod in w.pods.values()))
    facts = world.step(taken)
    assert facts.problem is not None
    assert "taken back" in facts.problem.message
    assert facts.stage is Stage.BLOCKED
    assert world.serving() == [old.target.name]
    for _ in range(timeout - 5):
        world.tick(1)
        world.step(taken)
        assert all(pod.node is not None for pod in world.pods.values())
    world.crowded = False
    new, _ = settle(world, taken)
    assert world.serving() == [new.target.name]
