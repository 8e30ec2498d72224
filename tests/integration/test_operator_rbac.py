"""The operator with exactly the rights that the chart gives it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import CHART, KUBE_VERSION, helm
from tests.integration.conftest import install_crds
from tests.support.controlplane import ControlPlane
from tests.support.manifests import a_model, a_pipeline
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually

from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.kinds import Ref

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

_RIGHTS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount")


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    """One of this file's own: an operator of all namespaces would take up whatever other tests have left behind."""
    with ControlPlane() as plane:
        install_crds(plane)
        yield plane


def rendered(namespace: str, *values: str) -> list[Manifest]:
    """The chart's objects for a release that is called as its namespace."""
    release = (namespace, str(CHART), f"--namespace={namespace}", f"--kube-version={KUBE_VERSION}")
    text = helm("template", *release, "--set=crds.enabled=false", *values)
    return [each for each in yaml.safe_load_all(text) if each]


def pod_of(objects: list[Manifest]) -> Manifest:
    """Spec of the operator's pod."""
    [deployment] = [each for each in objects if each["kind"] == "Deployment"]
    spec: Manifest = deployment["spec"]["template"]["spec"]
    return spec


def installed(control_plane: ControlPlane, namespace: str, *values: str) -> Path:
    """Apply the chart's rights; the kubeconfig of its service account."""
    objects = rendered(namespace, *values)
    rights = [each for each in objects if each["kind"] in _RIGHTS]
    documents = "\n---\n".join(json.dumps(each) for each in rights)
    control_plane.kubectl("apply", f"--namespace={namespace}", "-f", "-", stdin=documents)
    account = pod_of(objects)["serviceAccountName"]
    return control_plane.user_kubeconfig(
        f"system:serviceaccount:{namespace}:{account}",
        "system:serviceaccounts",
        f"system:serviceaccounts:{namespace}",
        "system:authenticated",
    )


def lease_of(namespace: str) -> str:
    """The chart names its Lease after the release."""
    [container] = pod_of(rendered(namespace))["containers"]
    return str(next(each["value"] for each in container["env"] if each["name"] == "PODIUM_OPERATOR_LEASE_NAME"))


@pytest.mark.parametrize("everywhere", [True, False], ids=["all namespaces", "one namespace"])
async def test_the_charts_rights_are_enough_for_all_that_the_operator_does(
    control_plane: ControlPlane, client: KubeClient, namespace: str, *, everywhere: bool
) -> None:
    values = () if everywhere else (f"--set=watchNamespaces={{{namespace}}}",)
    kubeconfig = installed(control_plane, namespace, *values)
    process = OperatorProcess(
        kubeconfig,
        "" if everywhere else namespace,
        lease_namespace=namespace,
        lease_name=lease_of(namespace),
        resync_seconds=1,
    )
    async with process:
        await process.leading()
        await client.apply(a_model(namespace))
        await client.apply(a_pipeline(namespace))
        await client.apply(a_pipeline(namespace, "lost", model="absent"))

        async def served() -> bool:
            return (await client.find(Ref("Deployment", namespace, "minilm-0"))) is not None

        async def told() -> bool:
            return bool(await client.list("Event", namespace))

        await eventually(served, what="a Deployment")
        await eventually(told, what="an Event")
        model = await client.apply(a_model(namespace, version="2"))
        updated = model["metadata"]["generation"]

        async def observed() -> bool:
            found = await client.get(Ref("InferenceModel", namespace, "minilm"))
            return bool(found.get("status", {}).get("observedGeneration") == updated)

        await eventually(observed, what="the second generation observed")
        requests = await process.samples("podium_operator_api_requests_total")
        assert [labels for labels in requests if 'code="403"' in labels] == []
        assert process.logged("kind_not_watched") == []
        assert [each for each in process.logs if each["level"] in ("warning", "error")] == []
        assert await process.stop() == 0
        assert process.logged("lease_released")


async def test_a_namespaced_operator_sees_nothing_of_other_namespaces(
    control_plane: ControlPlane, client: KubeClient, namespace: str
) -> None:
    kubeconfig = installed(control_plane, namespace, f"--set=watchNamespaces={{{namespace}}}")
    await client.apply(a_model("default", "elsewhere"))
    process = OperatorProcess(kubeconfig, namespace, lease_name=lease_of(namespace))
    async with process:
        await process.leading()
        await client.apply(a_model(namespace))

        async def served() -> bool:
            return (await client.find(Ref("Deployment", namespace, "minilm-0"))) is not None

        await eventually(served, what="a Deployment")
        assert await client.find(Ref("Deployment", "default", "elsewhere-0")) is None
        assert await process.samples("podium_operator_cached_objects") != {}
    await client.delete(Ref("InferenceModel", "default", "elsewhere"))
