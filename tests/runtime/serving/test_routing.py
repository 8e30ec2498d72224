"""The exact split and the route table."""

from collections import Counter
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.serving.builders import RESOURCE, a_revision

from podium.serving.revisions.errors import NotReadyError, UnknownModelError
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.routing import Route, Router, RouteTable, Target, interleaved
from podium_crds.assignment import ResourceKind, ResourceRef


def live(factor: float) -> LiveRevision:
    return LiveRevision(RESOURCE, a_revision(factor), MappingProxyType({}))


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_each_target_gets_exactly_its_weight_in_every_round(weights: list[int]) -> None:
    targets = tuple(Target(live(number), weight) for number, weight in enumerate(weights))
    turns = interleaved(targets)
    total = sum(weights)
    counted = Counter(revision.name for revision in turns)
    for target in targets:
        assert counted[target.revision.name] * total == target.weight * len(turns)


def test_turns_of_a_small_share_are_spread() -> None:
    turns = [revision.name for revision in interleaved((Target(live(2), 80), Target(live(3), 20)))]
    assert turns.count("scale-3") == 1
    assert len(turns) == 5


def test_a_route_without_targets_is_not_ready_and_an_unknown_name_is_unknown() -> None:
    router = Router()
    before = router.table
    router.publish(Route(RESOURCE))
    assert before.routes == {}
    with pytest.raises(NotReadyError):
        router.table.find("scale", ResourceKind.MODEL).next()
    with pytest.raises(UnknownModelError, match="served: scale"):
        router.table.find("other", ResourceKind.MODEL)
    with pytest.raises(UnknownModelError, match="no pipeline"):
        router.table.find("scale", ResourceKind.PIPELINE)
    router.withdraw(RESOURCE)
    assert router.table == RouteTable.empty()


def test_a_model_and_a_pipeline_may_share_a_name() -> None:
    router = Router()
    pipeline = ResourceRef(kind=ResourceKind.PIPELINE, name="scale")
    router.publish(Route(RESOURCE))
    router.publish(Route(pipeline))
    both = (ResourceKind.MODEL, ResourceKind.PIPELINE)
    assert router.table.find("scale", *both).resource == RESOURCE
    assert router.table.find("scale", ResourceKind.PIPELINE).resource == pipeline


def test_a_version_is_found_among_all_that_are_loaded() -> None:
    old, new = live(2), live(3)
    route = Route(RESOURCE, (Target(new, 100),), (new, old))
    assert route.of_version("2") is old
    assert route.primary is new
    with pytest.raises(UnknownModelError, match="loaded: 3, 2"):
        route.of_version("4")
