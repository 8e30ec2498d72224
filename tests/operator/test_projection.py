from typing import Any

from podium_operator.projection import project

Manifest = dict[str, Any]


def a_node(heartbeat: str, *, unschedulable: bool = False) -> Manifest:
    conditions = [
        {"type": "MemoryPressure", "status": "False", "lastHeartbeatTime": heartbeat},
        {"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat, "lastTransitionTime": "t0"},
    ]
    return {
        "kind": "Node",
        "metadata": {"name": "one", "annotations": {"seen": heartbeat}, "labels": {"zone": "a"}},
        "spec": {"unschedulable": unschedulable, "podCIDR": "10.0.0.0/24"},
        "status": {
            "conditions": conditions,
            "allocatable": {"nvidia.com/gpu": "2"},
            "images": [{"names": ["x"] * 50}],
        },
    }


def a_pod(probe_time: str) -> Manifest:
    condition = {"type": "Ready", "status": "True", "lastProbeTime": probe_time, "lastTransitionTime": "t0"}
    container = {
        "name": "runtime",
        "image": "i",
        "env": [{"name": "A", "value": "secret"}],
        "resources": {"limits": {}},
    }
    state = {"running": {"startedAt": "t0"}}
    return {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "resourceVersion": "9", "managedFields": [{}]},
        "spec": {"nodeName": "one", "containers": [container], "volumes": [{"name": "v"}]},
        "status": {
            "podIP": "10.0.0.5",
            "conditions": [condition],
            "containerStatuses": [{"name": "runtime", "restartCount": 2, "state": state, "containerID": "c"}],
        },
    }


def test_a_heartbeat_of_a_node_is_no_change() -> None:
    assert project(a_node("10:00")) == project(a_node("10:05"))


def test_cordoning_a_node_is_a_change() -> None:
    assert project(a_node("10:00")) != project(a_node("10:00", unschedulable=True))


def test_a_node_keeps_what_capacity_is_judged_by() -> None:
    kept = project(a_node("10:00"))
    assert kept["status"]["allocatable"] == {"nvidia.com/gpu": "2"}
    assert [each["type"] for each in kept["status"]["conditions"]] == ["Ready"]
    assert "images" not in kept["status"]


def test_a_probe_of_a_pod_is_no_change() -> None:
    assert project(a_pod("10:00")) == project(a_pod("10:05"))


def test_a_pod_keeps_where_it_runs_and_how_its_containers_do() -> None:
    kept = project(a_pod("10:00"))
    assert kept["spec"]["nodeName"] == "one"
    assert kept["status"]["podIP"] == "10.0.0.5"
    assert kept["status"]["containerStatuses"][0]["restartCount"] == 2
    assert "secret" not in str(kept)
    assert "volumes" not in kept["spec"]


def test_what_is_kept_has_neither_version_nor_managed_fields() -> None:
    metadata = project(a_pod("10:00"))["metadata"]
    assert metadata == {"name": "p", "namespace": "default"}


def test_kubectls_copy_of_the_spec_is_left_out_and_other_annotations_stay() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}" * 1000, "podium.dev/retry": "1"}
    model = {"kind": "InferenceModel", "metadata": {"name": "m", "annotations": annotations}, "spec": {"version": "1"}}
    kept = project(model)
    assert kept["metadata"]["annotations"] == {"podium.dev/retry": "1"}
    assert kept["spec"] == {"version": "1"}


def test_projecting_changes_nothing_of_its_argument() -> None:
    pod = a_pod("10:00")
    project(pod)
    assert pod == a_pod("10:00")
