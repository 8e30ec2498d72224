"""The API client against a real API server."""

import asyncio
from pathlib import Path

import pytest
import yaml
from tests.support.controlplane import ControlPlane

from podium_crds.keys import FIELD_MANAGER
from podium_operator.errors import LeaseLost
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.config import Credentials
from podium_operator.kube.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from podium_operator.kube.kinds import Ref
from podium_operator.kube.transport import Transport
from podium_operator.metrics import Metrics

pytestmark = pytest.mark.apiserver


def a_config_map(namespace: str, name: str = "settings", **data: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "data": data,
    }


def a_deployment(namespace: str, name: str = "pool", replicas: int = 1) -> Manifest:
    labels = {"podium.dev/pool": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "runtime", "image": "runtime:1"}]},
            },
        },
    }


async def test_apply_creates_updates_and_removes_fields_left_out(client: KubeClient, namespace: str) -> None:
    created = await client.apply(a_config_map(namespace, one="1", two="2"))
    assert created["data"] == {"one": "1", "two": "2"}
    updated = await client.apply(a_config_map(namespace, one="1"))
    assert updated["data"] == {"one": "1"}
    assert updated["metadata"]["uid"] == created["metadata"]["uid"]


async def test_managed_fields_never_come_back(client: KubeClient, namespace: str) -> None:
    assert "managedFields" not in (await client.apply(a_config_map(namespace)))["metadata"]
    listed = await client.list("ConfigMap", namespace)
    assert all("managedFields" not in each["metadata"] for each in listed)


async def test_fields_are_owned_by_the_operators_manager(
    client: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    await client.apply(a_config_map(namespace, one="1"))
    managers = control_plane.kubectl(
        "get", "configmap", "settings", "-n", namespace, "--show-managed-fields",
        "-o", "jsonpath={.metadata.managedFields[*].manager}",
    )  # fmt: skip
    assert managers == FIELD_MANAGER


async def test_apply_without_force_leaves_a_field_of_another_manager(
    client: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    await client.apply(a_config_map(namespace, one="1"))
    control_plane.kubectl(
        "patch", "configmap", "settings", "-n", namespace, "--type=merge", "-p", '{"data":{"one":"theirs"}}'
    )
    with pytest.raises(Conflict) as caught:
        await client.apply(a_config_map(namespace, one="2"), force=False)
    assert "kubectl" in str(caught.value)
    assert (await client.apply(a_config_map(namespace, one="2")))["data"] == {"one": "2"}


async def test_a_list_spans_pages_and_names_the_kind_of_each_item(client: KubeClient, namespace: str) -> None:
    # ConfigMaps are read 50 a page.
    names = [f"map-{number:03}" for number in range(120)]
    await asyncio.gather(*(client.apply(a_config_map(namespace, name)) for name in names))
    found = await client.list("ConfigMap", namespace)
    assert [each["metadata"]["name"] for each in found if each["metadata"]["name"] in names] == names
    assert {(each["apiVersion"], each["kind"]) for each in found} == {("v1", "ConfigMap")}


async def test_a_list_is_narrowed_by_its_selector(client: KubeClient, namespace: str) -> None:
    await client.apply(a_config_map(namespace, "one"))
    await client.apply(a_config_map(namespace, "two"))
    found = await client.list("ConfigMap", namespace, label_selector="app=two")
    assert [each["metadata"]["name"] for each in found] == ["two"]


async def test_a_missing_object_is_not_found(client: KubeClient, namespace: str) -> None:
    wanted = Ref("Secret", namespace, "absent")
    with pytest.raises(NotFound) as caught:
        await client.get(wanted)
    assert str(caught.value) == 'secrets "absent" not found'
    assert await client.find(wanted) is None


async def test_create_refuses_a_name_that_is_taken(client: KubeClient, namespace: str) -> None:
    await client.create(a_config_map(namespace))
    with pytest.raises(Conflict) as caught:
        await client.create(a_config_map(namespace))
    assert caught.value.already_exists


async def test_an_impossible_object_is_invalid_and_says_why(client: KubeClient, namespace: str) -> None:
    manifest = a_deployment(namespace)
    manifest["spec"]["template"]["spec"]["containers"][0]["name"] = "Not A Name"
    with pytest.raises(Invalid) as caught:
        await client.dry_run_apply(manifest)
    assert "containers[0].name" in str(caught.value)
    assert caught.value.details["causes"][0]["field"] == "spec.template.spec.containers[0].name"


async def test_a_dry_run_stores_nothing(client: KubeClient, namespace: str) -> None:
    rendered = await client.dry_run_apply(a_deployment(namespace))
    assert rendered["spec"]["progressDeadlineSeconds"] == 600
    assert await client.find(Ref("Deployment", namespace, "pool")) is None


async def test_scale_needs_the_current_resource_version(client: KubeClient, namespace: str) -> None:
    first = await client.apply(a_deployment(namespace))
    wanted = Ref("Deployment", namespace, "pool")
    scaled = await client.patch_scale(wanted, 3, resource_version=first["metadata"]["resourceVersion"])
    assert scaled["spec"]["replicas"] == 3
    with pytest.raises(Conflict):
        await client.patch_scale(wanted, 5, resource_version=first["metadata"]["resourceVersion"])
    assert (await client.get(wanted))["spec"]["replicas"] == 3


async def test_merge_patch_needs_the_current_resource_version(client: KubeClient, namespace: str) -> None:
    first = await client.apply(a_config_map(namespace, one="1"))
    wanted = Ref("ConfigMap", namespace, "settings")
    version = first["metadata"]["resourceVersion"]
    patched = await client.merge_patch(wanted, {"data": {"two": "2"}}, resource_version=version)
    assert patched["data"] == {"one": "1", "two": "2"}
    with pytest.raises(Conflict):
        await client.merge_patch(wanted, {"data": {"two": "3"}}, resource_version=version)


async def test_replace_needs_the_current_resource_version(client: KubeClient, namespace: str) -> None:
    first = await client.apply(a_config_map(namespace, one="1"))
    await client.replace({**first, "data": {"one": "2"}})
    with pytest.raises(Conflict):
        await client.replace({**first, "data": {"one": "3"}})


async def test_delete_spares_an_object_of_another_uid(client: KubeClient, namespace: str) -> None:
    first = await client.apply(a_config_map(namespace))
    wanted = Ref("ConfigMap", namespace, "settings")
    await client.delete(wanted, uid=first["metadata"]["uid"])
    second = await client.apply(a_config_map(namespace))
    with pytest.raises(Conflict):
        await client.delete(wanted, uid=first["metadata"]["uid"])
    with pytest.raises(Conflict):
        await client.delete(wanted, resource_version=first["metadata"]["resourceVersion"])
    await client.delete(wanted, uid=second["metadata"]["uid"])
    with pytest.raises(NotFound):
        await client.delete(wanted)


async def test_status_is_written_without_touching_the_spec(client: KubeClient, namespace: str) -> None:
    deployment = await client.apply(a_deployment(namespace))
    status = {"observedGeneration": 1, "replicas": 1}
    metadata = {"name": "pool", "namespace": namespace}
    written = await client.apply_status({"kind": "Deployment", "metadata": metadata, "status": status})
    assert written["status"]["observedGeneration"] == 1
    assert written["spec"] == deployment["spec"]
    with pytest.raises(NotFound):
        await client.apply_status({"kind": "Deployment", "metadata": {**metadata, "name": "absent"}, "status": status})


async def test_rbac_refuses_with_forbidden(control_plane: ControlPlane, metrics: Metrics, namespace: str) -> None:
    stranger = await Credentials.load(control_plane.user_kubeconfig("stranger"))
    client = KubeClient(Transport(stranger, metrics))
    with pytest.raises(Forbidden) as caught:
        await client.list("Secret", namespace)
    assert 'User "stranger" cannot list resource "secrets"' in str(caught.value)
    await client.close()


def a_token_kubeconfig(control_plane: ControlPlane, folder: Path, token: str) -> Path:
    found = yaml.safe_load(control_plane.kubeconfig.read_text())
    found["users"][0]["user"] = {"token": token}
    path = folder / "token.kubeconfig"
    path.write_text(yaml.safe_dump(found))
    return path


async def test_a_wrong_token_is_unauthorized(control_plane: ControlPlane, metrics: Metrics, tmp_path: Path) -> None:
    credentials = await Credentials.load(a_token_kubeconfig(control_plane, tmp_path, "wrong"))
    client = KubeClient(Transport(credentials, metrics))
    with pytest.raises(Unauthorized):
        await client.get(Ref("Namespace", None, "default"))
    await client.close()


async def test_a_token_that_was_replaced_is_read_again(
    control_plane: ControlPlane, metrics: Metrics, tmp_path: Path
) -> None:
    credentials = await Credentials.load(a_token_kubeconfig(control_plane, tmp_path, "expired"))
    client = KubeClient(Transport(credentials, metrics))
    control_plane.kubectl("create", "serviceaccount", "operator", "-n", "default")
    a_token_kubeconfig(control_plane, tmp_path, control_plane.kubectl("create", "token", "operator", "-n", "default"))
    with pytest.raises(Forbidden) as caught:
        await client.list("Secret")
    assert "system:serviceaccount:default:operator" in str(caught.value)
    await client.close()


async def test_a_fence_keeps_writes_back_and_lets_reads_pass(
    credentials: Credentials, metrics: Metrics, namespace: str
) -> None:
    def lost() -> None:
        raise LeaseLost("not held")

    client = KubeClient(Transport(credentials, metrics), fence=lost)
    with pytest.raises(LeaseLost):
        await client.apply(a_config_map(namespace))
    assert await client.find(Ref("ConfigMap", namespace, "settings")) is None
    await client.close()


async def test_requests_are_counted_by_verb_and_code(client: KubeClient, metrics: Metrics, namespace: str) -> None:
    await client.apply(a_config_map(namespace))
    await client.find(Ref("ConfigMap", namespace, "absent"))
    text = metrics.exposition().decode()
    assert 'podium_operator_api_requests_total{code="201",verb="APPLY"} 1.0' in text
    assert 'podium_operator_api_requests_total{code="404",verb="GET"} 1.0' in text
