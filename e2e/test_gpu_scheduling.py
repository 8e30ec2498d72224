"""GPUs as the scheduler sees them: an extended resource on one node, with nobody's driver behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.clusters.base import Cluster
from e2e.support.models import Scaler
from e2e.support.namespaces import Space
from e2e.support.served import Served

GPU = "nvidia.com/gpu"


@pytest.fixture
def gpu_node(cluster: Cluster) -> Iterator[str]:
    """The only node with a GPU, and it has one."""
    node = cluster.nodes()[-1]
    cluster.set_extended_resource(node, GPU, 1)
    yield node
    cluster.set_extended_resource(node, GPU, 0)


def on_a_gpu(name: str) -> Scaler:
    """A model whose pod asks for one GPU."""
    limits = {"limits": {GPU: 1, "memory": "1Gi"}, "requests": {"cpu": "20m", "memory": "128Mi"}}
    return Scaler(name=name, rollout={"scheduleTimeoutSeconds": 5}).with_spec(resources=limits)


def test_a_gpu_request_lands_on_the_gpu_and_the_next_one_waits_with_a_reason(space: Space, gpu_node: str) -> None:
    first = space.served(on_a_gpu("first"))
    (pod,) = first.pods()
    assert pod["spec"]["nodeName"] == gpu_node

    second: Served = space.applied(on_a_gpu("second"))
    item = second.settled("Progressing", "False", "InsufficientGPU")
    message = next(each["message"] for each in item["status"]["conditions"] if each["type"] == "Progressing")
    assert GPU in message, message
    assert [pod["status"]["phase"] for pod in second.pods()] == ["Pending"]

    first.delete()
    second.ready()
    (pod,) = second.pods()
    assert pod["spec"]["nodeName"] == gpu_node
