"""Copies of requests in a rollout: who makes them, what holds a step, what gives a revision up."""

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.rollout.test_canary import at_share, at_step, weights
from tests.operator.rollout.test_planner import FAST
from tests.support.builders import a_desired
from tests.support.simulated_cluster import SimulatedCluster, retargeted, settle

from podium_crds.reasons import Reason
from podium_crds.shadow import OutputTolerance, Shadow
from podium_operator.rollout.parity import barred, policy
from podium_operator.state import Desired, Facts, Hand, Stage

STEPS = [{"weight": 0, "pauseSeconds": 20}, {"weight": 50, "pauseSeconds": 20}]


def version(name: str, *, replicas: int = 2, parity: dict[str, Any] | None = None, **rollout: Any) -> Desired:
    analysis = {"parity": {"shadowPercent": 50, "minCompared": 40, **(parity or {})}}
    asked = {**FAST, "steps": STEPS, "analysis": analysis, **rollout}
    return a_desired(name, replicas=replicas, rollout=asked, idempotent=True)


def serving_first(replicas: int = 2, **rollout: Any) -> tuple[SimulatedCluster, Desired]:
    world = SimulatedCluster()
    wanted, _ = settle(world, version("1", replicas=replicas, **rollout))
    world.tick(5)
    return world, wanted


def copied(world: SimulatedCluster) -> set[Shadow | None]:
    return {pod.shadow.policy for pod in world.pods.values() if pod.ready}


def asking(world: SimulatedCluster, requests: int = 100, **how: Any) -> Any:
    """Done at the end of the rollout, with requests coming in meanwhile."""

    def done(_: SimulatedCluster, facts: Facts) -> bool:
        world.answer(requests, **how)
        return facts.complete or facts.stage is Stage.FAILED

    return done


def test_at_weight_0_every_pod_makes_copies_and_the_new_revision_answers_nobody() -> None:
    world, old = serving_first()
    asked = retargeted(old, version("2", parity={"tolerance": "0.01", "outputs": [{"name": "y", "absolute": "2"}]}))
    own = (OutputTolerance(name="y", absolute=2.0),)
    wanted = Shadow(revision=asked.target.name, percent=50, tolerance=0.01, outputs=own)
    settle(world, asked, until=lambda w, _: copied(w) == {wanted})
    assert weights(world, asked.target.name) == {0}
    assert world.serving() == [old.target.name] * 2


def test_a_revision_that_answers_alike_takes_over_and_the_copies_end() -> None:
    world, old = serving_first()
    new, facts = settle(world, retargeted(old, version("2")), until=asking(world))
    assert facts.complete
    assert world.serving() == [new.target.name] * 2
    assert copied(world) == {None}


def test_a_revision_that_answers_otherwise_is_given_up_before_it_answers_anybody() -> None:
    world, old = serving_first()
    asked = retargeted(old, version("2"))
    world.differs.add(asked.target.name)
    seen: set[int] = set()

    def given_up(world: SimulatedCluster, facts: Facts) -> bool:
        world.answer(100)
        seen.update(weights(world, asked.target.name))
        return facts.stage is Stage.FAILED and copied(world) == {None}

    _, facts = settle(world, asked, until=given_up)
    assert seen == {0}
    assert facts.problem is not None
    assert facts.problem.reason is Reason.ANALYSIS_FAILED
    assert "output 'y' is off by 1 where 0.001 is allowed" in facts.problem.message
    assert world.revisions[asked.target.name].quarantine is not None
    assert world.serving() == [old.target.name] * 2
    assert facts.available


def test_copies_that_the_new_revision_cannot_answer_count_against_it() -> None:
    world, old = serving_first()
    asked = retargeted(old, version("2"))
    _, facts = settle(world, asked, until=asking(world, failing=asked.target.name))
    assert facts.stage is Stage.FAILED
    assert world.serving() == [old.target.name] * 2


def test_a_share_of_differences_within_the_limit_is_no_reason() -> None:
    world, old = serving_first(parity={"maxMismatchPercent": 100})
    asked = retargeted(old, version("2", parity={"maxMismatchPercent": 100}))
    world.differs.add(asked.target.name)
    new, facts = settle(world, asked, until=asking(world))
    assert facts.complete
    assert world.serving() == [new.target.name] * 2


def test_too_few_copies_hold_the_step_however_long_and_say_so() -> None:
    world, old = serving_first()
    asked = retargeted(old, version("2", progressDeadlineSeconds=60))
    new, _ = settle(world, asked, until=at_step(1))
    for _ in range(120):
        world.tick(1)
        facts = world.step(new)
    assert weights(world, new.target.name) == {0}
    assert facts.problem is not None
    assert facts.problem.reason is Reason.ANALYSIS_INCONCLUSIVE
    assert "fewer than 40 answers" in facts.problem.message
    _, facts = settle(world, replace(new, hand=Hand(promote=new.target.name)))
    assert facts.complete


def test_the_counts_of_a_step_stand_in_status_in_round_numbers() -> None:
    world, old = serving_first()
    asked = retargeted(old, version("2", steps=[{"weight": 0}], parity={"maxMismatchPercent": 100}))
    world.differs.add(asked.target.name)
    new, _ = settle(world, asked, until=lambda w, _: copied(w) != {None})
    world.answer(86)
    facts = world.step(new)
    assert facts.canary is not None
    assert facts.canary.shadow is not None
    assert (facts.canary.shadow.compared, facts.canary.shadow.mismatched) == (80, 80)
    assert "off by 1" in facts.canary.shadow.worst


def test_a_container_that_restarts_makes_copies_again() -> None:
    world, old = serving_first()
    new, _ = settle(world, retargeted(old, version("2", steps=[{"weight": 0}])), until=lambda w, _: copied(w) != {None})
    wanted = policy(new)
    assert copied(world) == {wanted}
    world.restart(next(iter(world.pods.values())))
    settle(world, new, until=lambda w, _: all(pod.ready for pod in w.pods.values()) and copied(w) == {wanted})


def test_another_tolerance_reaches_the_pods_in_the_middle_of_a_step() -> None:
    world, old = serving_first()
    new, _ = settle(world, retargeted(old, version("2")), until=lambda w, _: copied(w) != {None})
    other = replace(new, rollout=version("2", parity={"tolerance": "0.5"}).rollout)
    settle(world, other, until=lambda w, _: {found.tolerance for found in copied(w) if found} == {0.5})


def test_a_release_that_makes_no_copies_is_pushed_nothing_in_vain_and_holds_the_step() -> None:
    world, old = serving_first(replicas=1)
    for pod in world.pods.values():
        pod.makes_copies = False
    asked = retargeted(old, version("2", replicas=1))
    new, _ = settle(world, asked, until=at_step(1))
    before = len(world.log)
    for _ in range(60):
        world.tick(1)
        world.answer(100)
        facts = world.step(new)
    assert world.log[before:] == []
    assert facts.canary is not None
    assert "fewer than 40" in facts.canary.analysis


def test_a_surge_passes_over_weight_0_and_holds_what_cannot_be_compared() -> None:
    world, old = serving_first()
    asked = retargeted(old, version("2", strategy="Surge"))
    new, _ = settle(world, asked, until=at_step(2))
    for _ in range(60):
        world.tick(1)
        world.answer(100)
        facts = world.step(new)
    assert sorted(world.serving()) == sorted([old.target.name, new.target.name])
    assert facts.canary is not None
    assert "in a surge no pod does" in facts.canary.analysis
    _, facts = settle(world, replace(new, hand=Hand(promote=new.target.name)))
    assert facts.complete


def test_a_surge_of_the_same_models_has_nothing_to_compare() -> None:
    world, old = serving_first()
    analysis = {"parity": {"shadowPercent": 50, "minCompared": 40}}
    rollout = {**FAST, "steps": STEPS, "analysis": analysis}
    asked = a_desired("1", replicas=2, rollout=rollout, idempotent=True, env=[{"name": "A", "value": "b"}])
    new, facts = settle(world, retargeted(old, asked))
    assert facts.complete
    assert world.serving() == [new.target.name] * 2


def test_without_leave_nothing_is_copied_to_a_model_that_may_have_effects() -> None:
    world, old = serving_first()
    new = retargeted(old, version("2"))
    member = new.target.record.members[0]
    definition = member.definition.model_copy(update={"idempotent": False})
    record = new.target.record.model_copy(update={"members": (member.model_copy(update={"definition": definition}),)})
    new = replace(new, target=replace(new.target, record=record))
    assert policy(new) is None
    new, facts = settle(world, new, until=at_step(1))
    world.tick(60)
    facts = world.step(new)
    assert facts.canary is not None
    assert "is not idempotent" in facts.canary.analysis
    assert copied(world) == {None}


@pytest.mark.parametrize(
    ("engine", "changes", "why"),
    [("Python", {}, "is not idempotent"), ("Torch", {}, ""), ("Python", {"idempotent": True}, "")],
)
def test_what_may_be_run_twice_without_being_asked_for(engine: str, changes: dict[str, bool], why: str) -> None:
    asked = version("1")
    analysis = asked.rollout.analysis
    assert analysis is not None
    assert analysis.parity is not None
    member = asked.target.record.members[0]
    definition = member.definition.model_copy(update={"engine": engine, "idempotent": False, **changes})
    record = asked.target.record.model_copy(update={"members": (member.model_copy(update={"definition": definition}),)})
    assert barred(analysis.parity, record).endswith(why)
    assert bool(barred(analysis.parity, record)) == bool(why)
    elsewhere = member.model_copy(update={"definition": definition, "remote": "other"})
    remote = record.model_copy(update={"members": (elsewhere,)})
    assert "other pods" in barred(analysis.parity, remote)
    assert barred(analysis.parity.model_copy(update={"allow_side_effects": True}), remote) == ""


def test_a_step_of_weight_0_is_judged_by_copies_alone() -> None:
    world, old = serving_first()
    limits = {"maxErrorPercent": 1, "minRequests": 10, "parity": {"shadowPercent": 50, "minCompared": 40}}
    asked = retargeted(old, version("2", analysis=limits))
    new, facts = settle(world, asked, until=asking(world))
    assert facts.complete
    assert world.serving() == [new.target.name] * 2


def test_steps_that_give_a_share_are_compared_too() -> None:
    world, old = serving_first()
    asked = retargeted(old, version("2", steps=[{"weight": 25, "pauseSeconds": 20}]))
    new, _ = settle(world, asked, until=at_share(asked.target.name, 25))
    assert copied(world) == {policy(new)}
    world.differs.add(new.target.name)
    _, facts = settle(world, new, until=asking(world))
    assert facts.stage is Stage.FAILED
