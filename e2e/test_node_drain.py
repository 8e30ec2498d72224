"""Nodes taken out of service by `kubectl drain` while clients ask."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from e2e.clusters.base import Cluster
from e2e.support import verdicts
from e2e.support.kubectl import Kubectl
from e2e.support.models import Scaler
from e2e.support.namespaces import Space
from e2e.support.served import is_ready
from e2e.support.swaps import INSTANCES, LONG_S, STEADY


@pytest.fixture
def drainable(admin: Kubectl, cluster: Cluster) -> Iterator[Kubectl]:
    """kubectl for draining; every node is in service again afterwards."""
    yield admin
    for node in cluster.nodes():
        admin("uncordon", node)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_drained_node_fails_no_request(space: Space, drainable: Kubectl, replicas: int) -> None:
    served = space.served(Scaler(name=f"drained-{replicas}", replicas=replicas, instances=INSTANCES))
    node = served.pods()[0]["spec"]["nodeName"]
    scales = served.scales()
    with served.load(long_s=LONG_S) as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        options = ["--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={served.selector}"]
        drainable("drain", node, *options, "--timeout=240s", timeout=250)
        served.ready(timeout=180)
        probe.wait_for_successes(STEADY, timeout=60, after=time.time())
        ledger = probe.stop()
    print(ledger.told())
    verdicts.nothing_failed(ledger)
    verdicts.bodies_match(ledger, scales)
    pods = [pod for pod in served.pods() if is_ready(pod)]
    assert len(pods) == replicas
    assert all(pod["spec"]["nodeName"] != node for pod in pods)
