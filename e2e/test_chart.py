"""The chart on a live cluster: an upgrade replaces the operator, and nothing else."""

from __future__ import annotations

import time

from e2e.support import verdicts
from e2e.support.models import Chain, Scaler
from e2e.support.namespaces import Space
from e2e.support.swaps import INSTANCES, STEADY, flawless, swap


def test_an_upgrade_of_the_operator_leaves_every_pod_alone(space: Space) -> None:
    model = space.served(Scaler(replicas=2, instances=INSTANCES))
    pipeline = space.served(Chain())
    before = model.identities() | pipeline.identities()
    operator = space.installation.operator()["metadata"]["uid"]
    with model.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        stamp = f"operator.podAnnotations.upgraded=at-{time.time():.0f}"
        space.installation.upgrade(stamp)
        assert space.installation.operator()["metadata"]["uid"] != operator
        model.ready()
        pipeline.ready()
        probe.wait_for_successes(STEADY, timeout=60, after=time.time())
        ledger = probe.stop()
    verdicts.nothing_failed(ledger)
    assert model.identities() | pipeline.identities() == before
    flawless(swap(model, Scaler(scale=3, replicas=2, instances=INSTANCES)))
    assert model.identities() | pipeline.identities() == before
