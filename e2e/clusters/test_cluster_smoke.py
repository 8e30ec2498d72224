"""What the rest of the suite takes for granted of a cluster, checked on the one that `select` chooses."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.clusters.base import Cluster
from e2e.clusters.built import BuiltCluster
from e2e.clusters.kubectl import kubectl
from e2e.clusters.select import select
from e2e.clusters.shell import run, wait_for
from e2e.clusters.toolchain import binary
from e2e.clusters.topology import BRIDGE

_SMOKE = Path(__file__).parent / "smoke"
_IMAGE = "podium-smoke:dev"

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    chosen = select()
    chosen.up()
    chosen.build_image(_SMOKE / "Dockerfile", _SMOKE, _IMAGE, {})
    chosen.load_images([_IMAGE])
    return chosen


@pytest.fixture(scope="module")
def smoke(cluster: Cluster) -> Iterator[Kubectl]:
    """kubectl in a namespace where the smoke deployment is available."""
    namespace = f"smoke-{uuid.uuid4().hex[:8]}"

    def call(*arguments: str, stdin: str | None = None) -> str:
        return kubectl(cluster.kubeconfig, f"--namespace={namespace}", *arguments, stdin=stdin, timeout=120)

    call("create", "namespace", namespace)
    try:
        call("apply", "-f", str(_SMOKE / "manifest.yaml"))
        call("rollout", "status", "deployment/smoke", "--timeout=90s")
        yield call
    finally:
        for node in cluster.nodes():
            call("uncordon", node)
        call("delete", "namespace", namespace, "--timeout=90s")


def _pods(call: Kubectl) -> list[dict[str, str]]:
    items = json.loads(call("get", "pods", "-l", "app=smoke", "-o", "json"))["items"]
    live = [item for item in items if "deletionTimestamp" not in item["metadata"]]
    return [
        {"name": item["metadata"]["name"], "node": item["spec"]["nodeName"], "address": item["status"]["podIP"]}
        for item in live
    ]


def _get(address: str) -> list[str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/", timeout=5) as answer:
        body: bytes = answer.read()
    return body.decode().splitlines()


def _inside(call: Kubectl, pod: str, url: str) -> str:
    script = f"import urllib.request as u; print(u.urlopen('{url}', timeout=5).read().decode())"
    return call("exec", pod, "--", "python3", "-c", script)


def test_pods_run_on_both_nodes_confined_and_without_root(smoke: Kubectl, cluster: Cluster) -> None:
    pods = _pods(smoke)
    assert {pod["node"] for pod in pods} == set(cluster.nodes())
    for pod in pods:
        facts = smoke("exec", pod["name"], "--", "python3", "-c", "import os; print(os.getuid(), os.getgroups())")
        assert facts.startswith("10001 ")
        assert "Seccomp:\t2" in smoke("exec", pod["name"], "--", "grep", "Seccomp:", "/proc/self/status")
        refusal = "try:\n open('/x', 'w')\nexcept OSError as e:\n print(e.strerror)"
        assert "Read-only file system" in smoke("exec", pod["name"], "--", "python3", "-c", refusal)


def test_pods_reach_each_other_services_and_names(smoke: Kubectl) -> None:
    one, two = _pods(smoke)
    service = smoke("get", "service", "smoke", "-o", "jsonpath={.spec.clusterIP}")
    assert two["name"] in _inside(smoke, one["name"], f"http://{two['address']}:8080/")
    assert one["name"] in _inside(smoke, two["name"], f"http://{one['address']}:8080/")
    for pod in (one, two):
        for _ in range(6):
            assert "mounted" in _inside(smoke, pod["name"], f"http://{service}/")
        assert "mounted" in _inside(smoke, pod["name"], "http://smoke/")


def test_the_machine_reaches_pods_and_services(smoke: Kubectl, cluster: Cluster) -> None:
    if cluster.kind != "built":
        pytest.skip("only the built cluster shares the machine's network")
    service = smoke("get", "service", "smoke", "-o", "jsonpath={.spec.clusterIP}")
    pods = _pods(smoke)
    for pod in pods:
        name, node, user, seccomp, value = _get(f"{pod['address']}:8080")
        assert (name, node, user, seccomp, value) == (pod["name"], pod["node"], "10001", "2", "mounted")
    assert {_get(service)[0] for _ in range(40)} == {pod["name"] for pod in pods}


def test_logs_and_port_forward(smoke: Kubectl, cluster: Cluster) -> None:
    pod = _pods(smoke)[0]["name"]
    assert "GET / HTTP" in smoke("logs", pod)
    namespace = json.loads(smoke("get", "pod", pod, "-o", "json"))["metadata"]["namespace"]
    argv = [str(binary("kubectl")), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]
    with subprocess.Popen([*argv, "port-forward", pod, ":8080"], stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            line = forward.stdout.readline()
            assert _get(line.split()[2])[0] == pod
        finally:
            forward.terminate()


def test_an_extended_resource_is_scheduled_for_real(smoke: Kubectl, cluster: Cluster) -> None:
    node = cluster.nodes()[1]
    cluster.set_extended_resource(node, "nvidia.com/gpu", 1)
    for name in ("first", "second"):
        container = {
            "name": "main",
            "image": _IMAGE,
            "command": ["sleep", "60"],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        smoke("apply", "-f", "-", stdin=json.dumps(pod))
        if name == "first":
            smoke("wait", "pod/first", "--for=condition=Ready", "--timeout=60s")
    smoke("wait", "pod/second", "--for=jsonpath={.status.conditions[0].reason}=Unschedulable", "--timeout=60s")
    assert smoke("get", "pod", "first", "-o", "jsonpath={.spec.nodeName}") == node
    assert "Insufficient nvidia.com/gpu" in smoke(
        "get", "pod", "second", "-o", "jsonpath={.status.conditions[0].message}"
    )
    smoke("delete", "pod", "first", "second", "--timeout=60s")
    cluster.set_extended_resource(node, "nvidia.com/gpu", 0)


def test_drain_moves_pods_and_respects_the_budget(smoke: Kubectl, cluster: Cluster) -> None:
    first, second = cluster.nodes()
    smoke("drain", first, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s")
    smoke("rollout", "status", "deployment/smoke", "--timeout=60s")
    deadline = time.monotonic() + 30

    def moved() -> str | None:
        places = [pod["node"] for pod in _pods(smoke)]
        return None if places == [second, second] else f"pods on {places}"

    wait_for("pods moved", moved, timeout=deadline - time.monotonic())
    smoke("uncordon", first)


def test_no_packet_to_a_service_or_pod_that_is_not_there_leaves_the_machine(cluster: Cluster) -> None:
    if isinstance(cluster, BuiltCluster):  # the others have a network of their own, behind an engine or a kubeconfig
        for unused in ("10.96.255.254", "10.244.255.254"):
            assert f"dev {BRIDGE}" in run(["ip", "route", "get", unused], timeout=10)
