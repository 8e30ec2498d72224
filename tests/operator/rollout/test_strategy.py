"""Auto resolves to exactly one strategy, and says why."""

from dataclasses import replace
from typing import Any

import pytest
from tests.support.builders import a_desired, a_record
from tests.support.simulated_cluster import SimulatedCluster, settle

from podium_crds.assignment import MemberReport, RevisionReport, RevisionState
from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutStrategy
from podium_crds.status import ResolvedStrategy
from podium_operator.rollout.capacity import overlap_bytes
from podium_operator.rollout.strategy import Resolution, resolve
from podium_operator.state import KnownRevision, Observed

MIB = 1 << 20


def serving(headroom: int | None = None, used: int = 100 * MIB) -> tuple[Observed, KnownRevision]:
    """One settled pod of version 1 whose workers measure `used` bytes and that has `headroom` left."""
    world = SimulatedCluster()
    wanted, _ = settle(world, a_desired())
    known = world.observed().revisions[wanted.target.name]
    load_hash = known.record.members[0].load_hash
    member = MemberReport(name="minilm", load_hash=load_hash, private_bytes=used)
    row = RevisionReport(name=known.name, state=RevisionState.ACTIVE, since="2026-01-01T00:00:00Z", members=(member,))
    [pool] = world.observed().pools
    [pod] = pool.pods
    assert pod.report is not None
    report = pod.report.model_copy(update={"revisions": (row,), "headroom_bytes": headroom})
    pool = replace(pool, pods=(replace(pod, report=report),))
    return replace(world.observed(), pools=(pool,)), known


def resolved(observed: Observed, old: KnownRevision, version: str = "2", **desired: Any) -> Resolution:
    return resolve(observed, a_desired(version, **desired), observed.pools[0], old)


@pytest.mark.parametrize("headroom", [None, 100 * MIB, 4096 * MIB])
def test_what_fits_is_swapped_in_place(headroom: int | None) -> None:
    found = resolved(*serving(headroom))
    assert found.strategy is not None
    assert found.strategy.resolved is RolloutStrategy.IN_PLACE


def test_what_does_not_fit_surges_and_says_how_much_is_missing() -> None:
    found = resolved(*serving(headroom=99 * MIB))
    assert found.strategy is not None
    assert found.strategy.resolved is RolloutStrategy.SURGE
    assert "100 MiB are needed, 99 MiB are left" in found.strategy.reason


def test_what_does_not_fit_and_must_be_in_place_waits() -> None:
    found = resolved(*serving(headroom=99 * MIB), rollout={"strategy": "InPlace"})
    assert found.strategy is None
    assert found.refusal is not None
    assert found.refusal.reason is Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP


SHARED = {"gpuFraction": "0.6", "resources": {"limits": {"nvidia.com/gpu": 1}}}


def serving_on(part: str) -> tuple[Observed, KnownRevision]:
    """As `serving`, its one worker on a part of the pod's one GPU."""
    world = SimulatedCluster()
    wanted, _ = settle(world, a_desired(**{**SHARED, "gpuFraction": part}))
    return world.observed(), world.observed().revisions[wanted.target.name]


def test_parts_of_gpus_that_do_not_fit_beside_each_other_surge() -> None:
    found = resolved(*serving_on("0.6"), **SHARED)
    assert found.strategy is not None
    assert found.strategy.resolved is RolloutStrategy.SURGE
    assert "do not fit on a pod's 1: minilm 0.6, minilm (serving) 0.6" in found.strategy.reason


def test_parts_of_gpus_that_fit_beside_each_other_are_swapped_in_place() -> None:
    found = resolved(*serving_on("0.4"), **{**SHARED, "gpuFraction": "0.6"})
    assert found.strategy is not None
    assert found.strategy.resolved is RolloutStrategy.IN_PLACE


def test_parts_of_gpus_that_do_not_fit_and_must_be_in_place_wait() -> None:
    found = resolved(*serving_on("0.6"), rollout={"strategy": "InPlace"}, **SHARED)
    assert found.strategy is None
    assert found.refusal is not None
    assert found.refusal.reason is Reason.INSUFFICIENT_GPU


def test_a_change_of_settings_alone_needs_no_memory() -> None:
    found = resolved(*serving(headroom=0), version="1", timeoutSeconds=9)
    assert found.strategy is not None
    assert found.strategy.resolved is RolloutStrategy.IN_PLACE


def test_a_rollout_keeps_the_strategy_it_began_with() -> None:
    observed, old = serving(headroom=0)
    begun = ResolvedStrategy(resolved=RolloutStrategy.IN_PLACE, reason="it fitted then")
    desired = replace(a_desired("2"), chosen=begun)
    assert resolve(observed, desired, observed.pools[0], old).strategy == begun


def test_a_strategy_that_the_user_forbids_since_is_chosen_anew() -> None:
    observed, old = serving()
    begun = ResolvedStrategy(resolved=RolloutStrategy.IN_PLACE, reason="it fitted then")
    desired = replace(a_desired("2", rollout={"strategy": "Surge"}), chosen=begun)
    found = resolve(observed, desired, observed.pools[0], old)
    assert found.strategy is not None
    assert found.strategy.resolved is RolloutStrategy.SURGE


def test_a_member_that_stays_needs_no_memory_beside_itself() -> None:
    observed, old = serving()
    same = KnownRevision(name="other", record=a_record("1", timeoutSeconds=9))
    assert overlap_bytes(observed.pools[0], old, same) == 0
