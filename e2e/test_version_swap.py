"""The claim itself: a version change in place that no client notices."""

from __future__ import annotations

import pytest
from e2e.probers.probe import Probe
from e2e.support.models import Chain, Scaler
from e2e.support.namespaces import Space
from e2e.support.served import Served
from e2e.support.swaps import INSTANCES, flawless, newest, swap
from e2e.support.waiting import eventually

RESOURCES: dict[str, tuple[Scaler | Chain, Scaler | Chain]] = {
    "model": (Scaler(scale=2, instances=INSTANCES), Scaler(scale=3, instances=INSTANCES)),
    "pipeline": (Chain(second=5, instances=INSTANCES), Chain(second=7, instances=INSTANCES)),
}


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("kind", RESOURCES)
def test_a_version_swap_in_place_fails_no_request(space: Space, kind: str, replicas: int) -> None:
    first, second = (each.with_replicas(replicas) for each in RESOURCES[kind])
    served = space.served(first)
    result = swap(served, second)
    flawless(result)
    assert result.identities_before == result.identities_after
    assert served.answer(3)[0] == 3 * second.scale


def test_going_back_to_the_version_before_fails_no_request(space: Space) -> None:
    first = Scaler(scale=2, instances=INSTANCES)
    served = space.served(first)
    flawless(swap(served, first.at(3)))
    back = swap(served, first)
    flawless(back)
    assert served.answer(3)[0] == 6


def test_a_swap_called_off_and_one_overtaken_while_loading_fail_no_request(space: Space) -> None:
    """A→B→A and then A→C→D, each changed while the version in between loads in the first of two pods."""
    first = Scaler(scale=2, instances=INSTANCES, replicas=2)
    served = space.served(first)
    for between, wanted in ((first.at(3, loadSeconds=4), first), (first.at(4, loadSeconds=4), first.at(5))):
        old, before = served.current(), served.identities()
        passing: dict[str, float] = {}

        def overtaken(
            _: Probe, old: str = old, wanted: Scaler = wanted, passing: dict[str, float] = passing
        ) -> dict[str, float]:
            eventually("a candidate loads", lambda: loading(served), bool, timeout=60, every=0.05)
            passing |= newest(served, old)
            served.apply(wanted)
            return passing

        result = swap(served, between, overtaken)
        flawless(result, passing)
        assert served.identities() == before
        assert served.answer(3)[0] == 3 * wanted.scale


def loading(served: Served) -> bool:
    """Whether a pod loads something."""
    return any(each["state"] == "Loading" for pod in served.pods() for each in served.report(pod)["revisions"])
