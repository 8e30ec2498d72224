"""A HorizontalPodAutoscaler of the cluster's own writes replicas, and goes on while a version is replaced."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.support import demand, verdicts
from e2e.support.commands import podium
from e2e.support.demand import Demand, autoscaler
from e2e.support.kubectl import Object
from e2e.support.models import Scaler, shape
from e2e.support.namespaces import Space
from e2e.support.served import Served, is_ready
from e2e.support.swaps import INSTANCES, LONG_S, STEADY
from e2e.support.waiting import eventually

SCALE_S = 90.0
"""An autoscaler looks every 15 seconds where it is not told otherwise."""


@pytest.fixture
def wanted(space: Space) -> Iterator[Demand]:
    """The metric that the autoscaler follows."""
    started = demand.start(space.kubectl, space.installation.images.runtime)
    yield started
    started.remove()


def has_ready(served: Served, count: int) -> None:
    """Wait for that many ready pods, and no others."""

    def pods() -> list[bool]:
        return [is_ready(pod) for pod in served.pods()]

    eventually(f"{count} ready pods", pods, lambda ready: ready == [True] * count, timeout=SCALE_S)


def test_an_autoscaler_that_scales_out_and_in_amid_a_surge_fails_no_request(space: Space, wanted: Demand) -> None:
    held = {"steps": [{"weight": 50}]}
    served = space.served(Scaler(instances=INSTANCES, replicas=2, rollout=held))
    first = served.current()
    space.kubectl.apply(autoscaler(served, each=10, least=1, most=4))
    with served.load(long_s=LONG_S) as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        wanted.set(30)
        has_ready(served, 3)
        served.kubectl.patch(served.resource, served.name, {"spec": {"version": "surged", **shape("surged")}})
        eventually("both versions answer", served.get, at_the_step, timeout=120)
        for demanded, pods in ((40, 4), (20, 2)):
            wanted.set(demanded)
            has_ready(served, pods)
            assert at_the_step(served.get()), "the rollout is still where it was"
        podium(served, "promote", served.name)
        served.ready(timeout=180)
        has_ready(served, 2)
        second = served.current()
        ledger = probe.stop()
    print(ledger.told())
    verdicts.nothing_failed(ledger)
    verdicts.bodies_match(ledger, {first: 2, second: 2})
    verdicts.answered_by(ledger, [first, second])


def at_the_step(item: Object) -> bool:
    """Whether the surge stands where each version has half of the pods."""
    rows = item["status"].get("revisions", [])
    return (item["status"].get("canary") or {}).get("step") == 1 and sum(row["trafficPercent"] > 0 for row in rows) == 2
