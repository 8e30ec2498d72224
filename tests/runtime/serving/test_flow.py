"""Rates and quantiles between two looks at the counters of a revision."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.serving.revisions.flow import STALE_S, WINDOW_S, FlowMeter, Point, quantile
from podium.serving.revisions.live import LiveRevision
from podium_crds.assignment import (
    LATENCY_BOUNDS_S,
    Artifact,
    EngineKind,
    EngineSpec,
    Graph,
    Member,
    ResourceKind,
    ResourceRef,
    Revision,
    Step,
    StepInput,
)

RESOURCE = ResourceRef(kind=ResourceKind.PIPELINE, name="p")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def a_pipeline() -> LiveRevision:
    step = Step(name="only", model="m", inputs=(StepInput(name="x", source="request.x"),))
    graph = Graph(steps=(step,), outputs=(StepInput(name="y", source="only.y"),))
    engine = EngineSpec(kind=EngineKind.PYTHON, entrypoint="m:M")
    member = Member(name="m", load_hash="h", version="1", artifact=Artifact(files={}), engine=engine)
    return LiveRevision(RESOURCE, Revision(name="p-1", version="1", members=(member,), graph=graph), {})


def test_a_first_look_has_nothing_to_compare_with() -> None:
    live = a_pipeline()
    flows = FlowMeter(lambda: [live], Clock()).look()
    assert flows.keys() == {Point(live), Point(live, "only")}
    assert {flow.per_s for flow in flows.values()} == {None}


def test_rates_are_of_the_window_before_the_look() -> None:
    live, clock = a_pipeline(), Clock()
    meter = FlowMeter(lambda: [live], clock)
    meter.look()
    for second in range(20):
        for request in range(10):
            live.counts.add("predict", 503 if request == 0 and second >= 15 else 200, 0.02)
            live.step_seconds["only"].add(0.003)
        live.step_failures["only"] += second >= 15
        clock.now += 1
        flows = meter.look()
    assert WINDOW_S == 5
    assert (flows[Point(live)].per_s, flows[Point(live)].failed_per_s) == (10, 1)
    assert (flows[Point(live, "only")].per_s, flows[Point(live, "only")].failed_per_s) == (10, 1)
    assert flows[Point(live, "only")].p50_s == pytest.approx(0.00375)
    clock.now += WINDOW_S
    assert meter.look()[Point(live)].per_s == pytest.approx(0)
    assert meter.look()[Point(live)].p99_s is None


def test_what_was_seen_long_ago_says_nothing_of_now() -> None:
    live, clock = a_pipeline(), Clock()
    meter = FlowMeter(lambda: [live], clock)
    meter.look()
    live.counts.add("predict", 200, 0.02)
    clock.now += STALE_S + 1
    assert meter.look()[Point(live)].per_s is None


def test_a_revision_that_comes_meanwhile_has_counted_from_zero() -> None:
    first, second, clock = a_pipeline(), a_pipeline(), Clock()
    loaded = [first]
    meter = FlowMeter(lambda: loaded, clock)
    meter.look()
    loaded[:] = [second]
    second.counts.add("predict", 200, 0.02)
    clock.now += 2
    flows = meter.look()
    assert flows.keys() == {Point(second), Point(second, "only")}
    assert flows[Point(second)].per_s == 0.5


def test_many_who_look_often_do_not_shorten_the_window() -> None:
    live, clock = a_pipeline(), Clock()
    meter = FlowMeter(lambda: [live], clock)
    for _ in range(600):
        live.counts.add("predict", 200, 0.02)
        clock.now += 0.01
        flows = meter.look()
    assert flows[Point(live)].per_s == pytest.approx(100)


def test_quantiles_lie_between_the_bounds_of_their_bucket() -> None:
    buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
    assert quantile(buckets, 0.5) is None
    buckets[3] = 4
    assert quantile(buckets, 0.5) == pytest.approx((LATENCY_BOUNDS_S[2] + LATENCY_BOUNDS_S[3]) / 2)
    buckets[-1] = 6
    assert quantile(buckets, 0.5) == math.inf


@given(st.lists(st.floats(0, 29), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_never_further_off_than_its_bucket(seconds: list[float], share: float) -> None:
    live = a_pipeline()
    for each in seconds:
        live.step_seconds["only"].add(each)
    found = quantile(live.step_seconds["only"].counts, share)
    true = sorted(seconds)[max(0, math.ceil(share * len(seconds) - 1e-9) - 1)]
    bounds = (0.0, *LATENCY_BOUNDS_S)
    low, high = next((low, high) for low, high in pairwise(bounds) if true <= high)
    assert found is not None
    assert low - 1e-12 <= found <= high + 1e-12
