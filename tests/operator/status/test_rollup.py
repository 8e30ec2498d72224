"""The whole status."""

from dataclasses import replace

from tests.support.builders import a_desired, an_owner
from tests.support.simulated_cluster import SimulatedCluster, retargeted, settle

from podium_crds.base import json_bytes
from podium_crds.reasons import Reason
from podium_crds.status import ServingStatus
from podium_operator.state import Desired, Facts, Problem
from podium_operator.status.conditions import Judgement
from podium_operator.status.rollup import MAX_STATUS_BYTES, Subject, endpoints, loaded, rollup

ROLLOUT = {"propagationSeconds": 2, "rollbackWindowSeconds": 30}


def status(
    world: SimulatedCluster, desired: Desired, facts: Facts, previous: ServingStatus | None = None
) -> ServingStatus:
    observed = world.observed()
    target = observed.revisions.get(desired.target.name, desired.target)
    subject = Subject(an_owner(), "http://minilm.default.svc", "podium.dev/model=minilm", desired.replicas, target)
    judgement = Judgement(facts, desired.generation, loaded=loaded(observed, facts.target))
    return rollup(subject, observed, judgement, previous or ServingStatus(), world.now)


def settled(replicas: int = 2) -> tuple[SimulatedCluster, Desired, Facts]:
    world = SimulatedCluster()
    desired, facts = settle(world, a_desired(replicas=replicas, rollout=ROLLOUT))
    return world, desired, facts


def test_counts_leave_surge_and_terminating_pods_out() -> None:
    world, desired, facts = settled()
    world.kill(next(iter(world.pods.values())))
    world.tick(1)
    found = status(world, desired, facts)
    assert found.replicas == 2
    assert found.ready_replicas == 1
    surging = retargeted(desired, a_desired(replicas=2, rollout=ROLLOUT, env=[{"name": "A", "value": "b"}]))
    world, desired, facts = settled()
    world.step(surging)
    assert len(world.pods) == 3
    assert status(world, surging, facts).replicas == 2


def test_a_second_look_at_the_same_world_changes_nothing() -> None:
    world, desired, facts = settled()
    first = status(world, desired, facts)
    world.tick(300)
    settled_again = world.step(desired)
    assert status(world, desired, replace(settled_again, routable=facts.routable), first) == first


def test_during_a_swap_both_revisions_have_a_row_and_the_old_has_the_traffic() -> None:
    world, desired, _ = settled()
    wanted = retargeted(desired, a_desired("2", replicas=2, rollout=ROLLOUT))
    for _ in range(2):
        facts = world.step(wanted)
        world.tick(1)
    facts = world.step(wanted)
    rows = {row.version: row for row in status(world, wanted, facts).revisions}
    assert rows["1"].traffic_percent == 100
    assert rows["2"].traffic_percent == 0
    assert rows["2"].replicas == 1


def test_a_quarantined_revision_keeps_its_row_and_says_why() -> None:
    world, desired, _ = settled()
    broken = retargeted(desired, a_desired("2", replicas=2, rollout=ROLLOUT))
    world.fails.add(broken.target.name)
    wanted, facts = settle(
        world,
        broken,
        until=lambda w, _: (
            w.revisions[broken.target.name].quarantine is not None if broken.target.name in w.revisions else False
        ),
    )
    row = status(world, wanted, facts).revisions[0]
    assert row.state == "Failed"
    assert row.last_failure is not None
    assert row.last_failure.reason == "LoadFailed"


def test_the_status_stays_within_its_limit() -> None:
    world, desired, facts = settled()
    long = "x" * 4000
    for index in range(8):
        other = a_desired(str(index + 2), rollout=ROLLOUT).target
        problem = Problem(Reason.LOAD_FAILED, long, world.now)
        world.revisions[other.name] = replace(other, uid="u", ordinal=index + 2, quarantine=problem)
    found = status(world, desired, replace(facts, degraded=Problem(Reason.RECONCILE_ERROR, long)))
    assert json_bytes(found.wire()) <= MAX_STATUS_BYTES
    assert found.revisions[0].name == desired.target.name


def test_grpc_is_an_endpoint_where_it_is_asked_for() -> None:
    subject = Subject(an_owner(), "http://minilm.default.svc", "podium.dev/model=minilm", 1, None)
    assert [each.name for each in endpoints(subject)] == ["predict", "oip"]
    told = endpoints(replace(subject, grpc_url="grpc://minilm.default.svc:8082"))
    assert [(each.name, each.url) for each in told[2:]] == [("grpc", "grpc://minilm.default.svc:8082")]
