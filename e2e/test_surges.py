"""Changes that need new pods: called off, overtaken, scaled meanwhile, and with no room at all."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from e2e.clusters.base import Cluster
from e2e.probers.probe import Probe
from e2e.support import verdicts
from e2e.support.kubectl import condition
from e2e.support.models import Chain, Scaler, shape
from e2e.support.namespaces import Space
from e2e.support.served import Served, is_ready
from e2e.support.store import digest, heavy_archive
from e2e.support.swaps import (
    INSTANCES,
    LONG_S,
    STEADY,
    Swap,
    newest,
    swap,
    unnoticed,
    until_answered_by_another,
)
from e2e.support.waiting import eventually

SEAT = "podium.dev/seat"
"""An extended resource that only one node has."""


def model(scale: int) -> Scaler:
    """A model of two pods whose every version needs new ones."""
    return Scaler(scale=scale, replicas=2, instances=INSTANCES).with_spec(**shape(f"x{scale}"))


def surged(served: Served, result: Swap) -> None:
    """No pod of before is left but those that were kept, as the plan in status had said."""
    assert served.get()["status"]["strategy"]["resolved"] == "Surge"
    before = {uid for uid, _ in result.identities_before.values()}
    pods = [pod for pod in served.pods() if is_ready(pod)]
    kept = {pod["metadata"]["uid"] for pod in pods} & before
    assert kept == (before if result.old == result.new else set())


def test_a_surge_of_a_pipeline_fails_no_request(space: Space) -> None:
    first = Chain(second=5, instances=INSTANCES)
    served = space.served(first.with_spec(**shape("one")))
    result = swap(served, Chain(second=7, instances=INSTANCES).with_spec(**shape("two")))
    unnoticed(result)
    surged(served, result)
    assert served.answer(3)[0] == 3 * 14


def test_a_surge_scaled_called_off_and_overtaken_fails_no_request(space: Space) -> None:
    """A→B with a scale out and in as an autoscaler writes them, then B→C→B, then B→D→E, each while both answer."""
    served = space.served(model(2))

    def scaled(probe: Probe) -> None:
        until_answered_by_another(probe, a)
        for replicas in (3, 2):
            space.kubectl("scale", f"{served.resource}/{served.name}", f"--replicas={replicas}")
            eventually(
                f"the operator has seen {replicas} replicas",
                served.get,
                lambda item: item["status"]["observedGeneration"] == item["metadata"]["generation"],
                timeout=30,
            )

    a = served.current()
    result = swap(served, model(3), scaled)
    unnoticed(result)
    surged(served, result)

    for back, overtaking in ((model(4), model(3)), (model(5), model(6))):
        old = served.current()
        passing: dict[str, float] = {}

        def overtaken(
            probe: Probe, old: str = old, wanted: Scaler = overtaking, passing: dict[str, float] = passing
        ) -> dict[str, float]:
            until_answered_by_another(probe, old)
            passing |= newest(served, old)
            served.apply(wanted)
            return passing

        result = swap(served, back, overtaken)
        unnoticed(result, passing)
        assert set(passing) <= set(result.ledger.by_revision()), "the version in between never answered"
        assert served.answer(3)[0] == 3 * overtaking.scale


def test_a_restart_of_a_pools_deployment_fails_no_request(space: Space) -> None:
    served = space.served(Scaler(replicas=2, instances=INSTANCES))
    before = {uid for uid, _ in served.identities().values()}
    (pool,) = space.kubectl.list("deployments", selector=served.selector)
    name = pool["metadata"]["name"]
    with served.load(long_s=LONG_S) as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        space.kubectl("rollout", "restart", f"deployment/{name}")
        space.kubectl.rolled_out(f"deployment/{name}", timeout=180)
        served.ready(timeout=120)
        probe.wait_for_successes(STEADY, timeout=60, after=time.time())
        ledger = probe.stop()
    print(ledger.told())
    verdicts.nothing_failed(ledger)
    verdicts.bodies_match(ledger, served.scales())
    ready = {pod["metadata"]["uid"] for pod in served.pods() if is_ready(pod)}
    assert len(ready) == 2
    assert not ready & before


LIMIT_MIB, WEIGHTS_MIB = 768, 400
"""A container that holds one such version and not two, with 80 to 250 MiB for everything else."""


def test_what_a_pod_has_no_room_for_comes_in_a_new_pod_and_fails_no_request(space: Space) -> None:
    store = space.store()
    limited = {"limits": {"memory": f"{LIMIT_MIB}Mi"}, "requests": {"cpu": "20m", "memory": "128Mi"}}

    def heavy(scale: int) -> Scaler:
        name, data = f"x{scale}.zip", heavy_archive(WEIGHTS_MIB, seed=scale)
        store.put(name, data)
        return Scaler(scale=scale, source=store.source(name, digest(data))).with_spec(resources=limited)

    served = space.served(heavy(2))
    result = swap(served, heavy(3), long_s=0.0)
    unnoticed(result)
    surged(served, result)
    strategy = served.get()["status"]["strategy"]
    assert "no room for both revisions in a pod: pod " in strategy["reason"], strategy
    assert f"its weights take {WEIGHTS_MIB} MiB" in strategy["reason"], strategy


@pytest.fixture
def seat(cluster: Cluster) -> Iterator[str]:
    """The node that will get a seat; nobody has one at first."""
    node = cluster.nodes()[-1]
    yield node
    cluster.set_extended_resource(node, SEAT, 0)


def test_a_surge_that_fits_nowhere_is_taken_back_and_goes_on_when_there_is_room(
    space: Space, seat: str, cluster: Cluster
) -> None:
    first = Scaler(instances=INSTANCES, rollout={"scheduleTimeoutSeconds": 4})
    served = space.served(first)
    (pod,) = served.pods()
    seated = {"limits": {"memory": "1Gi", SEAT: 1}, "requests": {"cpu": "20m", "memory": "128Mi"}}

    def wait_for_room(_: Probe) -> None:
        def taken_back() -> bool:
            status, reason = condition(served.get(), "Progressing")
            return status == "False" and reason != "" and [each["metadata"]["uid"] for each in served.pods()] == [uid]

        eventually("the pod that fits nowhere is gone", taken_back, bool, timeout=90)
        print("taken back:", condition(served.get(), "Progressing"))
        assert condition(served.get(), "Available")[0] == "True"
        cluster.set_extended_resource(seat, SEAT, 1)

    uid = pod["metadata"]["uid"]
    result = swap(
        served, Scaler(scale=3, instances=INSTANCES, rollout=first.rollout).with_spec(resources=seated), wait_for_room
    )
    unnoticed(result)
    surged(served, result)
