"""A rollout that a Prometheus server judges: what is asked and when, and what each answer does."""

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.rollout.test_canary import at_share, at_step, weights
from tests.operator.rollout.test_planner import FAST
from tests.support.builders import a_desired
from tests.support.simulated_cluster import SimulatedCluster, retargeted, settle

from podium_crds.reasons import Reason
from podium_operator.rollout.measured import Question, question
from podium_operator.state import Desired, Measurement, Stage

QUERY = 'errors{revision="{{revision}}"} / errors{revision="{{previous}}",model="{{name}}",ns="{{namespace}}"}'
STEPS = [{"weight": 10, "pauseSeconds": 20}]


def version(name: str, *, steps: list[dict[str, int]] | None = None, **check: Any) -> Desired:
    asked = {"address": "http://prometheus:9090", "query": QUERY, "maxValue": "0.05", **check}
    analysis: dict[str, Any] = {"prometheus": asked}
    if steps is not None:
        analysis["parity"] = {"shadowPercent": 50, "minCompared": 10}
    rollout = {**FAST, "steps": steps or STEPS, "analysis": analysis}
    return a_desired(name, replicas=2, rollout=rollout, idempotent=True)


def in_step(**check: Any) -> tuple[SimulatedCluster, Desired, Desired]:
    """Version 2 at its first step beside version 1."""
    world = SimulatedCluster()
    old, _ = settle(world, version("1", **check))
    world.tick(5)
    asked = retargeted(old, version("2", **check))
    new, _ = settle(world, asked, until=at_share(asked.target.name, 10))
    return world, old, new


def test_the_question_names_both_revisions_and_the_resource() -> None:
    _, old, new = in_step()
    asked = question(new)
    assert asked == Question(
        "http://prometheus:9090",
        f'errors{{revision="{new.target.name}"}} / '
        f'errors{{revision="{old.target.name}",model="minilm",ns="{new.owner.resource.namespace}"}}',
    )
    assert question(old) is None


def test_an_answer_within_the_limits_lets_the_rollout_go_on() -> None:
    world, _, new = in_step()
    world.measured = Measurement(value=0.05)
    new, facts = settle(world, new)
    assert facts.complete
    assert world.serving() == [new.target.name] * 2


@pytest.mark.parametrize(
    ("check", "value", "words"),
    [
        ({}, 0.06, "the query gives 0.06 for {}, at most 0.05 is allowed"),
        ({}, float("inf"), "the query gives inf"),
        ({"minValue": "0.01"}, 0.001, "at least 0.01 is needed"),
    ],
)
def test_an_answer_beyond_a_limit_gives_the_revision_up(check: dict[str, str], value: float, words: str) -> None:
    world, old, new = in_step(**check)
    world.measured = Measurement(value=value)
    _, facts = settle(world, new, until=lambda w, f: f.stage is Stage.FAILED and weights(w, new.target.name) == {0})
    assert facts.problem is not None
    assert facts.problem.reason is Reason.ANALYSIS_FAILED
    assert words.format(new.target.name) in facts.problem.message
    assert world.serving() == [old.target.name] * 2


@pytest.mark.parametrize("measured", [None, Measurement(problem="http://prometheus:9090: no answer within 3 s")])
def test_a_server_that_says_nothing_holds_the_step(measured: Measurement | None) -> None:
    world, _, new = in_step()
    world.measured = measured
    for _ in range(60):
        world.tick(1)
        facts = world.step(new)
    assert weights(world, new.target.name) == {10}
    assert facts.canary is not None
    assert "Prometheus says nothing" in facts.canary.analysis


def test_at_weight_0_there_is_nothing_to_ask() -> None:
    world = SimulatedCluster()
    steps = [{"weight": 0, "pauseSeconds": 10}]
    old, _ = settle(world, version("1", steps=steps))
    world.tick(5)
    new, _ = settle(world, retargeted(old, version("2", steps=steps)), until=at_step(1))
    assert question(new) is None
    new, facts = settle(world, new, until=lambda w, f: w.answer(100) is None and f.complete)
    assert facts.complete


def test_a_revision_that_was_given_up_is_asked_about_no_more() -> None:
    world, _, new = in_step()
    world.measured = Measurement(value=1.0)
    new, _ = settle(world, new, until=lambda _w, f: f.stage is Stage.FAILED)
    assert question(replace(new, target=world.revisions[new.target.name])) is None
