"""The table of conditions in the API documentation, a test for each of its cells that this release reaches."""

from dataclasses import replace

import pytest
from tests.support.builders import START, after

from podium_crds.meta import Condition, ConditionStatus
from podium_crds.reasons import ConditionType, Reason
from podium_operator.state import Facts, Problem, Routed, Stage
from podium_operator.status.conditions import Judgement, conditions

TARGET, OLD = "minilm-new", "minilm-old"
BASE = Facts(Stage.ROLLING, TARGET, OLD, available=True, complete=False)
LOAD = Problem(Reason.LOAD_FAILED, "no such file")
GPU = Problem(Reason.INSUFFICIENT_GPU, "0/1 nodes are available")
INVALID = Problem(Reason.INVALID_SPEC, "tolerations are wrong")
MISSING = Problem(Reason.ARTIFACT_UNAVAILABLE, "404")

SITUATIONS = {
    "first start": Judgement(replace(BASE, current=None, available=False), 1),
    "settled": Judgement(replace(BASE, stage=Stage.SETTLED, complete=True, current=TARGET), 1, loaded=True),
    "rolling": Judgement(BASE, 2),
    "paused": Judgement(replace(BASE, stage=Stage.PAUSED), 2),
    "failed, old serves": Judgement(replace(BASE, stage=Stage.FAILED, problem=LOAD), 2, retained=True),
    "failed at first": Judgement(replace(BASE, stage=Stage.FAILED, current=None, available=False, problem=MISSING), 1),
    "invalid, old serves": Judgement(replace(BASE, stage=Stage.INVALID, problem=INVALID), 2, invalid=INVALID),
    "no room": Judgement(replace(BASE, stage=Stage.BLOCKED, problem=GPU), 2),
    "no room at first": Judgement(replace(BASE, stage=Stage.BLOCKED, problem=GPU, current=None, available=False), 1),
    "scaled to zero": Judgement(replace(BASE, stage=Stage.SCALED_TO_ZERO, available=False, complete=True), 2),
    "suspended": Judgement(
        replace(BASE, stage=Stage.SCALED_TO_ZERO, available=False, complete=True), 2, suspended=True
    ),
    "all pods lost": Judgement(
        replace(BASE, stage=Stage.SETTLED, complete=True, current=TARGET, available=False), 2, loaded=False
    ),
}
TABLE = [
    ("first start", "Ready", "False", "RolloutInProgress"),
    ("first start", "Available", "False", "RolloutInProgress"),
    ("first start", "Progressing", "True", "RolloutInProgress"),
    ("first start", "UpToDate", "False", "RolloutInProgress"),
    ("first start", "Validated", "True", "RolloutComplete"),
    ("first start", "ArtifactsReady", "Unknown", "RolloutInProgress"),
    ("settled", "Ready", "True", "RolloutComplete"),
    ("settled", "Available", "True", "RolloutComplete"),
    ("settled", "Progressing", "False", "RolloutComplete"),
    ("settled", "UpToDate", "True", "RolloutComplete"),
    ("settled", "Validated", "True", "RolloutComplete"),
    ("settled", "ArtifactsReady", "True", "RolloutComplete"),
    ("rolling", "Ready", "False", "RolloutInProgress"),
    ("rolling", "Available", "True", "RolloutComplete"),
    ("rolling", "Progressing", "True", "RolloutInProgress"),
    ("rolling", "UpToDate", "False", "RolloutInProgress"),
    ("rolling", "Validated", "True", "RolloutComplete"),
    ("paused", "Ready", "False", "Paused"),
    ("paused", "Available", "True", "RolloutComplete"),
    ("paused", "Progressing", "True", "Paused"),
    ("paused", "UpToDate", "False", "Paused"),
    ("failed, old serves", "Ready", "False", "LoadFailed"),
    ("failed, old serves", "Available", "True", "RolloutComplete"),
    ("failed, old serves", "Progressing", "False", "LoadFailed"),
    ("failed, old serves", "UpToDate", "False", "RolledBack"),
    ("failed, old serves", "Validated", "True", "RolloutComplete"),
    ("failed at first", "Ready", "False", "ArtifactUnavailable"),
    ("failed at first", "Available", "False", "ArtifactUnavailable"),
    ("failed at first", "Progressing", "False", "ArtifactUnavailable"),
    ("failed at first", "UpToDate", "False", "ArtifactUnavailable"),
    ("failed at first", "ArtifactsReady", "False", "ArtifactUnavailable"),
    ("invalid, old serves", "Ready", "False", "InvalidSpec"),
    ("invalid, old serves", "Available", "True", "RolloutComplete"),
    ("invalid, old serves", "Progressing", "False", "InvalidSpec"),
    ("invalid, old serves", "UpToDate", "False", "InvalidSpec"),
    ("invalid, old serves", "Validated", "False", "InvalidSpec"),
    ("no room", "Ready", "False", "InsufficientGPU"),
    ("no room", "Available", "True", "RolloutComplete"),
    ("no room", "Progressing", "False", "InsufficientGPU"),
    ("no room", "UpToDate", "False", "InsufficientGPU"),
    ("no room", "Validated", "True", "RolloutComplete"),
    ("no room at first", "Available", "False", "InsufficientGPU"),
    ("scaled to zero", "Ready", "False", "ScaledToZero"),
    ("scaled to zero", "Available", "False", "ScaledToZero"),
    ("scaled to zero", "Progressing", "False", "ScaledToZero"),
    ("scaled to zero", "UpToDate", "True", "ScaledToZero"),
    ("scaled to zero", "Validated", "True", "RolloutComplete"),
    ("suspended", "Ready", "False", "Suspended"),
    ("suspended", "Available", "False", "Suspended"),
    ("suspended", "UpToDate", "True", "Suspended"),
    ("all pods lost", "Ready", "False", "RolloutInProgress"),
    ("all pods lost", "Available", "False", "RolloutInProgress"),
    ("all pods lost", "UpToDate", "True", "RolloutComplete"),
]


def condition(situation: str, kind: str, previous: tuple[Condition, ...] = ()) -> Condition:
    return next(c for c in conditions(SITUATIONS[situation], previous, START) if c.type == kind)


@pytest.mark.parametrize(("situation", "kind", "status", "reason"), TABLE)
def test_the_cell(situation: str, kind: str, status: str, reason: str) -> None:
    found = condition(situation, kind)
    assert (found.status, found.reason) == (status, reason)


@pytest.mark.parametrize("situation", sorted(SITUATIONS))
def test_all_types_are_there_from_the_first_pass_with_the_generation_judged(situation: str) -> None:
    found = conditions(SITUATIONS[situation], (), START)
    expected = set(ConditionType) - {ConditionType.ROUTED, ConditionType.DEGRADED}
    assert sorted(c.type for c in found) == sorted(expected)
    assert {c.observed_generation for c in found} == {SITUATIONS[situation].generation}


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = conditions(SITUATIONS["rolling"], (), START)
    later = conditions(SITUATIONS["failed, old serves"], first, after(60))
    moved = {c.type for c in later if c.last_transition_time != first[0].last_transition_time}
    assert moved == {"Progressing"}


def test_degraded_is_there_only_while_something_is_abnormal() -> None:
    odd = Judgement(replace(BASE, stage=Stage.SETTLED, complete=True, degraded=GPU), 2)
    assert [c.reason for c in conditions(odd, (), START) if c.type == "Degraded"] == ["InsufficientGPU"]


def test_a_rolled_back_message_says_what_failed_and_what_serves() -> None:
    message = condition("failed, old serves", "UpToDate").message
    assert TARGET in message
    assert OLD in message
    assert "no such file" in message


def test_routed_is_there_only_where_gateways_are_asked_for() -> None:
    said = Routed(ConditionStatus.UNKNOWN, Reason.ROUTE_PENDING, "nobody has answered")
    base = SITUATIONS["settled"]
    assert ConditionType.ROUTED not in {each.type for each in conditions(base, (), START)}
    found = {each.type: each for each in conditions(replace(base, routed=said), (), START)}
    condition = found[ConditionType.ROUTED]
    assert (condition.status, condition.reason, condition.message) == (said.status, said.reason, said.message)
    assert found[ConditionType.READY].status is ConditionStatus.TRUE  # the Service serves, whatever gateways say
