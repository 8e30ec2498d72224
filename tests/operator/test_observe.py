"""Pods as the API server has them → what the planner is given."""

from collections.abc import Mapping
from typing import Any

from tests.support.builders import a_record, an_owner

from podium_crds.assignment import Report
from podium_crds.rollout import RolloutSpec
from podium_crds.serving import PodMetadata
from podium_operator.cache import Cache
from podium_operator.metrics import Metrics
from podium_operator.observe import Observer, read_pod
from podium_operator.pods.client import AdminKeys
from podium_operator.resources import names
from podium_operator.resources.deployment import deployment
from podium_operator.resources.labels import child_labels, controlled_by, pool_labels
from podium_operator.state import Owner
from podium_operator.times import parse_time

READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:09Z"}


def a_pod(**parts: Any) -> dict[str, Any]:
    container = {"name": "runtime", "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:05Z"}}}
    return {
        "metadata": {
            "name": "minilm-0-x",
            "uid": "u",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **parts.get("metadata", {}),
        },
        "spec": {"nodeName": "n", "containers": [{"name": "runtime", "resources": parts.get("resources", {})}]},
        "status": {
            "podIP": "10.0.0.1",
            "conditions": parts.get("conditions", [READY]),
            "containerStatuses": [{**container, **parts.get("container", {})}],
        },
    }


def test_a_ready_pod_is_live_and_ready_since_its_condition_says() -> None:
    pod = read_pod(a_pod())
    assert pod.live
    assert pod.ready
    assert pod.ready_since == parse_time("2026-01-01T00:00:09Z")
    assert pod.running_since == parse_time("2026-01-01T00:00:05Z")


def test_a_terminating_pod_is_no_capacity_though_it_is_ready() -> None:
    pod = read_pod(a_pod(metadata={"deletionTimestamp": "2026-01-01T00:01:00Z"}))
    assert pod.terminating
    assert not pod.ready
    assert not pod.live


def test_an_unschedulable_pod_keeps_the_scheduler_s_words() -> None:
    refused = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
    assert read_pod(a_pod(conditions=[refused])).unschedulable == "0/2 nodes"
    gated = {**refused, "reason": "SchedulingGated"}
    assert read_pod(a_pod(conditions=[gated])).unschedulable is None


def test_a_container_that_cannot_start_says_why() -> None:
    waiting = {"restartCount": 4, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    pod = read_pod(a_pod(container=waiting, conditions=[]))
    assert pod.waiting == "ImagePullBackOff: no such image"
    assert pod.restarts == 4
    assert not pod.live


def test_only_a_kill_for_memory_counts_as_one() -> None:
    ended = {"finishedAt": "2026-01-01T00:00:04Z", "exitCode": 137}
    assert read_pod(a_pod(container={"lastState": {"terminated": {**ended, "reason": "Error"}}})).oom_killed_at is None
    killed = read_pod(a_pod(container={"lastState": {"terminated": {**ended, "reason": "OOMKilled"}}}))
    assert killed.oom_killed_at == parse_time("2026-01-01T00:00:04Z")


def test_gpus_are_counted_from_limits() -> None:
    assert read_pod(a_pod(resources={"limits": {"nvidia.com/gpu": "2"}})).gpus == 2
    assert read_pod(a_pod()).gpus == 0


def test_only_the_controller_owns() -> None:
    owned = {"metadata": {"ownerReferences": [{"uid": "a", "controller": True}, {"uid": "b"}]}}
    assert controlled_by(owned, "a")
    assert not controlled_by(owned, "b")
    assert not controlled_by({"metadata": {}}, "a")


async def test_a_pod_counts_as_routed_by_the_service_of_all_pools_and_by_its_own_pools_apart() -> None:
    owner = an_owner()
    pool = names.pool(owner.resource.name, 0)
    deployment_of_it = deployment(owner, pool, a_record(), 1, (RolloutSpec(), PodMetadata()))
    deployment_of_it["metadata"] |= {"uid": "d", "resourceVersion": "1"}
    pod = a_pod(metadata={"namespace": "default", "labels": pool_labels(owner.resource, pool), "resourceVersion": "2"})
    for listing, expected in (
        ({"minilm": True}, (True, False)),
        ({"minilm-0-pool": True}, (False, True)),
        ({"minilm": True, "minilm-0-pool": True}, (True, True)),
        ({"minilm": False, "minilm-1-pool": True}, (False, False)),
    ):
        cache = Cache(Metrics())
        for each in (deployment_of_it, {**pod, "apiVersion": "v1", "kind": "Pod"}, *slices(owner, listing)):
            cache.told(each)
        observed = (await Observer(cache, Silent()).observe(owner)).observed
        [found] = observed.pools[0].pods
        assert (found.endpoint_ready, found.pool_endpoint_ready) == expected, listing


def slices(owner: Owner, listing: Mapping[str, bool]) -> list[dict[str, Any]]:
    """An EndpointSlice for each Service, that names the one pod as ready or as not."""
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service}-x",
                "namespace": "default",
                "resourceVersion": "3",
                "labels": {**child_labels(owner.resource, "service"), "kubernetes.io/service-name": service},
            },
            "endpoints": [{"conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "uid": "u"}}],
        }
        for service, ready in listing.items()
    ]


class Silent:
    """No pod is asked here: there is no admin Secret."""

    async def get_report(self, pod_ip: str, pod_uid: str, keys: AdminKeys) -> Report:
        raise AssertionError("asked without a key")
