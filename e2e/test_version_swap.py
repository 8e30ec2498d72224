"""The claim itself: a version change in place that no client notices."""

from __future__ import annotations

import pytest
from e2e.support.models import Chain, Scaler
from e2e.support.namespaces import Space
from e2e.support.swaps import INSTANCES, flawless, swap

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
