"""What a plan says will change."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.operator.rollout.test_planner import FAST, desired, running
from tests.support.builders import a_desired
from tests.support.simulated_cluster import SimulatedCluster, remembered, retargeted, settle
from tests.support.simulated_gateway import SimulatedGateway

from podium_crds.revision import MemberRecord, RevisionRecord
from podium_operator.rollout.changes import changes
from podium_operator.state import Desired, Hand, Stage
from podium_operator.status.shares import share


def with_files(record: RevisionRecord, text: str) -> RevisionRecord:
    def member(each: MemberRecord) -> MemberRecord:
        return each.model_copy(update={"files": {"model.py": text}})

    return record.model_copy(update={"members": tuple(map(member, record.members))})


def test_files_of_a_config_map_are_named_where_they_changed() -> None:
    old = a_desired("1").target.record
    (line,) = changes(with_files(old, "one"), with_files(old, "two"))
    assert ".files: " in line


def test_files_that_stay_the_same_are_no_change_whatever_else_is() -> None:
    old, new = a_desired("1").target.record, a_desired("2").target.record
    said = changes(with_files(old, "one"), with_files(new, "one"))
    assert said != ()
    assert not any(".files" in line for line in said), said


def told_and_seen(replicas: int, weights: tuple[int, ...], *, by_gateways: bool) -> tuple[tuple[int, ...], list[int]]:
    """What the plan of a surge in steps says, and the shares that status then tells at each step and at the end."""
    world, old = running(replicas=replicas)
    if by_gateways:
        world.gateway = SimulatedGateway(timedelta(seconds=FAST["propagationSeconds"]))
    steps = [{"weight": weight} for weight in weights]
    spec = desired("2", replicas=replicas, env=[{"name": "A", "value": "b"}], rollout={"steps": steps})
    wanted = retargeted(old, replace(spec, weighted=by_gateways))
    facts = world.step(wanted)
    plan, wanted = facts.plan, remembered(wanted, facts)
    assert plan is not None
    name, seen = wanted.target.name, []
    for number in range(1, len(weights) + 1):
        wanted = held(world, wanted)
        assert wanted.canary is not None
        assert wanted.canary.step == number
        seen.append(share(name, world.observed(), None))
        wanted = replace(wanted, hand=Hand(promote=f"{name}/{number}"))
        wanted, _ = settle(world, wanted, until=lambda _, f: f.stage is not Stage.PAUSED)
    settle(world, wanted)
    settle(world, wanted, until=lambda w, _: len(w.pools) == 1)
    return plan.traffic_percents, [*seen, share(name, world.observed(), None)]


def held(world: SimulatedCluster, wanted: Desired) -> Desired:
    """Until a step waits for its promotion, and pods that leave have left."""
    return settle(
        world,
        wanted,
        until=lambda w, f: f.stage is Stage.PAUSED and not any(pod.terminating_since for pod in w.pods.values()),
    )[0]


@pytest.mark.parametrize("by_gateways", [False, True])
@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("weights", [(10, 50), (20, 60, 90), (80,)])
def test_the_shares_that_a_surge_in_steps_announces_are_those_that_it_comes_to(
    replicas: int, weights: tuple[int, ...], by_gateways: bool
) -> None:
    told, seen = told_and_seen(replicas, weights, by_gateways=by_gateways)
    assert told == tuple(dict.fromkeys(seen))


def test_a_surge_in_steps_announces_exact_shares_where_gateways_make_them() -> None:
    assert told_and_seen(2, (10, 50), by_gateways=True)[0] == (10, 50, 100)
    assert told_and_seen(2, (10, 50), by_gateways=False)[0] == (33, 50, 100)
    assert told_and_seen(1, (10,), by_gateways=True)[0] == (50, 100), "of one pod alone no share is sent straight"
