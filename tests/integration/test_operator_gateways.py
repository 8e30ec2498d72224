"""HTTPRoutes, on a real API server with the real definitions of the Gateway API. The test speaks for the gateways."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from tests.crds.largest import largest_model
from tests.integration.conftest import install_crds
from tests.integration.test_operator_rbac import installed, lease_of
from tests.support.builders import an_owner
from tests.support.controlplane import ControlPlane
from tests.support.gateway_api import answer, install_gateway_api
from tests.support.manifests import a_model, a_pipeline
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually

from podium_crds.gateway import GatewayRoute
from podium_operator.commands.planning import planned, told
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.config import Credentials
from podium_operator.kube.kinds import Ref
from podium_operator.kube.transport import Transport
from podium_operator.metrics import Metrics
from podium_operator.resources.route import http_route
from podium_operator.state import Owner

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

PUBLIC = {"parentRefs": [{"name": "public", "namespace": "infra", "sectionName": "https"}]}


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    """One of this file's own: elsewhere there is no Gateway API."""
    with ControlPlane() as plane:
        install_crds(plane)
        install_gateway_api(plane)
        yield plane


@pytest.fixture
async def operator(control_plane: ControlPlane, namespace: str) -> AsyncIterator[OperatorProcess]:
    async with OperatorProcess(control_plane.kubeconfig, namespace, resync_seconds=1) as process:
        yield await process.leading()
        for line in process.logs[-60:]:
            print(line)  # pytest shows it where the test failed


def routed(namespace: str, **gateway: Any) -> Manifest:
    """A model that asks for a route."""
    return a_model(namespace, exposure={"gateway": {**PUBLIC, **gateway}})


async def route(client: KubeClient, namespace: str, name: str = "minilm") -> Manifest | None:
    return await client.find(Ref("HTTPRoute", namespace, name))


async def until_routed(
    client: KubeClient, namespace: str, status: str, reason: str, kind: str = "InferenceModel", name: str = "minilm"
) -> str:
    """Wait for the condition Routed at the current generation; its message."""

    async def said() -> str:
        found = await client.get(Ref(kind, namespace, name))
        conditions = {each["type"]: each for each in found.get("status", {}).get("conditions", ())}
        condition = conditions.get("Routed")
        assert condition is not None, list(conditions)
        assert condition["observedGeneration"] == found["metadata"]["generation"]
        assert (condition["status"], condition["reason"]) == (status, reason), condition
        return str(condition["message"])

    return await eventually(said, within_s=60, what=f"Routed={status} {reason}")


async def until_quiet(operator: OperatorProcess) -> None:
    """Wait for three passes in which nothing was written; an Event may still be on its way at first."""

    async def quiet() -> bool:
        writes, passes = await operator.writes(), await operator.passes()

        async def passed() -> bool:
            return await operator.passes() >= passes + 3

        await eventually(passed, what="three passes")
        return await operator.writes() == writes

    await eventually(quiet, what="three passes without a write")


async def test_a_route_is_made_and_what_gateways_say_of_it_is_told(
    control_plane: ControlPlane, client: KubeClient, namespace: str, operator: OperatorProcess
) -> None:
    await client.apply(routed(namespace, hostnames=["models.example.com"], path="/minilm"))
    message = await until_routed(client, namespace, "Unknown", "RoutePending")
    assert await eventually(lambda: route(client, namespace), what="an HTTPRoute")
    message = await eventually(lambda: _naming(client, namespace, "Gateway infra/public (listener https)"))
    assert "does it exist" in message

    answer(control_plane, namespace, "minilm")
    message = await until_routed(client, namespace, "True", "RouteAccepted")
    assert "models.example.com/minilm" in message

    answer(control_plane, namespace, "minilm", accepted=("False", "NotAllowedByListeners"))
    message = await until_routed(client, namespace, "False", "RouteRejected")
    assert "NotAllowedByListeners" in message

    async def told() -> bool:
        events = await client.list("Event", namespace)
        return any(each["reason"] == "RouteRejected" and each["type"] == "Warning" for each in events)

    await eventually(told, what="a Warning")


async def _naming(client: KubeClient, namespace: str, words: str) -> str:
    message = await until_routed(client, namespace, "Unknown", "RoutePending")
    assert words in message, message
    return message


async def test_a_pipeline_is_routed_as_a_model_is(
    control_plane: ControlPlane, client: KubeClient, namespace: str, operator: OperatorProcess
) -> None:
    pipeline = a_pipeline(namespace)
    pipeline["spec"]["exposure"] = {"gateway": PUBLIC}
    await client.apply(a_model(namespace, replicas=0))
    await client.apply(pipeline)
    name = pipeline["metadata"]["name"]
    await eventually(lambda: route(client, namespace, name), what="an HTTPRoute")
    answer(control_plane, namespace, name)
    await until_routed(client, namespace, "True", "RouteAccepted", "InferencePipeline", name)
    found = await route(client, namespace, name)
    assert found is not None
    assert found["metadata"]["ownerReferences"][0]["kind"] == "InferencePipeline"


async def test_another_host_changes_the_route_and_nothing_else(
    client: KubeClient, namespace: str, operator: OperatorProcess
) -> None:
    await client.apply(routed(namespace, hostnames=["a.example"], path="/a"))
    await eventually(lambda: route(client, namespace), what="an HTTPRoute")
    before = await client.get(Ref("InferenceModel", namespace, "minilm"))
    await client.apply(routed(namespace, hostnames=["b.example"]))

    async def changed() -> bool:
        found = await route(client, namespace)
        assert found is not None
        assert "filters" not in found["spec"]["rules"][0]  # what is no longer asked for is taken back
        return bool(found["spec"]["hostnames"] == ["b.example"])

    await eventually(changed, what="the other host")
    after = await client.get(Ref("InferenceModel", namespace, "minilm"))
    assert after["status"]["updateRevision"] == before["status"]["updateRevision"]
    assert len(await client.list("ControllerRevision", namespace)) == 1


async def test_a_route_goes_with_the_field_and_its_condition_too(
    control_plane: ControlPlane, client: KubeClient, namespace: str, operator: OperatorProcess
) -> None:
    await client.apply(routed(namespace))
    await eventually(lambda: route(client, namespace), what="an HTTPRoute")
    answer(control_plane, namespace, "minilm")
    await until_routed(client, namespace, "True", "RouteAccepted")
    await client.apply(a_model(namespace))

    async def gone() -> bool:
        found = await client.get(Ref("InferenceModel", namespace, "minilm"))
        types = [each["type"] for each in found["status"]["conditions"]]
        return "Routed" not in types and await route(client, namespace) is None

    await eventually(gone, what="no route and no condition")


async def test_a_route_that_is_asked_for_no_longer_goes_also_where_the_operator_was_away(
    control_plane: ControlPlane, client: KubeClient, namespace: str
) -> None:
    async with OperatorProcess(control_plane.kubeconfig, namespace) as process:
        await process.leading()
        await client.apply(routed(namespace))
        await eventually(lambda: route(client, namespace), what="an HTTPRoute")
    await client.apply(a_model(namespace))
    async with OperatorProcess(control_plane.kubeconfig, namespace) as process:
        await process.leading()

        async def gone() -> bool:
            return await route(client, namespace) is None

        await eventually(gone, what="no route")


async def test_a_route_that_others_change_or_delete_is_put_right(
    client: KubeClient, namespace: str, operator: OperatorProcess
) -> None:
    await client.apply(routed(namespace, hostnames=["a.example"]))
    made = await eventually(lambda: route(client, namespace), what="an HTTPRoute")
    wanted = Ref("HTTPRoute", namespace, "minilm")
    await client.merge_patch(wanted, {"spec": {"hostnames": ["stolen.example"]}}, resource_version=None)

    async def restored() -> bool:
        found = await route(client, namespace)
        return found is not None and found["spec"]["hostnames"] == ["a.example"]

    await eventually(restored, what="the host that is asked for")
    await client.delete(wanted)

    async def made_again() -> bool:
        found = await route(client, namespace)
        return found is not None and found["metadata"]["uid"] != made["metadata"]["uid"]

    await eventually(made_again, what="another route")


async def test_a_plan_says_what_becomes_of_the_route_and_touches_nothing(
    control_plane: ControlPlane, client: KubeClient, namespace: str, operator: OperatorProcess
) -> None:
    async def said(manifest: Manifest) -> str:
        return told(await planned(client, manifest, datetime.now(UTC)))

    first = routed(namespace, hostnames=["a.example"])
    assert "route       new: Gateways infra/public (listener https), hosts a.example, paths /v1" in await said(first)
    assert await route(client, namespace) is None
    await client.apply(first)
    await eventually(lambda: route(client, namespace), what="an HTTPRoute")
    assert "route" not in await said(first)
    before = await route(client, namespace)
    assert "route       hosts: a.example → b.example" in await said(routed(namespace, hostnames=["b.example"]))
    assert "route       removed" in await said(a_model(namespace, exposure={}))
    assert await route(client, namespace) == before


async def test_nothing_is_written_while_nothing_changes(
    control_plane: ControlPlane, client: KubeClient, namespace: str, operator: OperatorProcess
) -> None:
    await client.apply(routed(namespace, path="/minilm"))
    await eventually(lambda: route(client, namespace), what="an HTTPRoute")
    answer(control_plane, namespace, "minilm")
    await until_routed(client, namespace, "True", "RouteAccepted")
    await until_quiet(operator)
    assert len(operator.logged("route_applied")) == 1


async def test_a_route_of_somebody_else_is_left_alone(
    client: KubeClient, namespace: str, operator: OperatorProcess
) -> None:
    theirs = http_route(an_owner(), GatewayRoute.model_validate({**PUBLIC, "hostnames": ["theirs.example"]}))
    theirs["metadata"] = {"name": "minilm", "namespace": namespace}
    await client.create(theirs)
    await client.apply(routed(namespace, hostnames=["ours.example"]))
    message = await until_routed(client, namespace, "False", "RouteRejected")
    assert "does not own it: rename one of them" in message
    found = await route(client, namespace)
    assert found is not None
    assert found["spec"]["hostnames"] == ["theirs.example"]
    await eventually(lambda: client.find(Ref("Deployment", namespace, "minilm-0")), what="a Deployment all the same")
    await client.apply(a_model(namespace))

    async def unsaid() -> bool:
        model = await client.get(Ref("InferenceModel", namespace, "minilm"))
        return "Routed" not in [each["type"] for each in model["status"]["conditions"]]

    await eventually(unsaid, what="no condition")
    assert await route(client, namespace) is not None


async def test_without_the_gateway_api_all_else_is_served_and_the_route_comes_with_it(
    metrics: Metrics,
) -> None:
    with ControlPlane() as plane:
        install_crds(plane)
        bare = KubeClient(Transport(await Credentials.load(plane.kubeconfig), metrics))
        async with _closed(bare), OperatorProcess(plane.kubeconfig, "default", resync_seconds=1) as process:
            await process.leading()
            await bare.apply(routed("default"))
            message = await until_routed(bare, "default", "False", "GatewayAPIUnavailable")
            assert "install the Gateway API" in message
            await eventually(lambda: bare.find(Ref("Deployment", "default", "minilm-0")), what="a Deployment")
            await until_quiet(process)
            assert [each for each in process.logs if each["level"] == "error"] == []

            install_gateway_api(plane)
            await until_routed(bare, "default", "Unknown", "RoutePending")
            await eventually(lambda: route(bare, "default"), what="an HTTPRoute")
            answer(plane, "default", "minilm")
            await until_routed(bare, "default", "True", "RouteAccepted")


@pytest.mark.parametrize("allowed", [True, False])
async def test_the_charts_value_decides_whether_routes_are_made(
    control_plane: ControlPlane, client: KubeClient, namespace: str, *, allowed: bool
) -> None:
    kubeconfig = installed(control_plane, namespace, f"--set=operator.gatewayApi={str(allowed).lower()}")
    process = OperatorProcess(kubeconfig, namespace, lease_name=lease_of(namespace), resync_seconds=1)
    async with process:
        await process.leading()
        await client.apply(routed(namespace))
        if not allowed:
            message = await until_routed(client, namespace, "False", "GatewayAPIUnavailable")
            assert "set the Helm value operator.gatewayApi to true" in message
            return
        await eventually(lambda: route(client, namespace), what="an HTTPRoute")
        answer(control_plane, namespace, "minilm")
        await until_routed(client, namespace, "True", "RouteAccepted")
        await client.apply(a_model(namespace))

        async def gone() -> bool:
            return await route(client, namespace) is None

        await eventually(gone, what="no route")
        requests = await process.samples("podium_operator_api_requests_total")
        assert [labels for labels in requests if 'code="403"' in labels] == []


async def test_the_gateway_api_takes_every_route_that_podium_takes(client: KubeClient, namespace: str) -> None:
    random = Random(7)
    for number in range(60):
        wanted = GatewayRoute.model_validate(_some_route(random))
        manifest = http_route(_owner(namespace), wanted)
        found = await client.dry_run_apply(manifest)
        assert found["spec"]["parentRefs"], number
    largest = GatewayRoute.model_validate(largest_model()["spec"]["exposure"]["gateway"])
    await client.dry_run_apply(http_route(_owner(namespace), largest))


def _owner(namespace: str) -> Owner:
    owner = an_owner()
    return replace(owner, resource=owner.resource.model_copy(update={"namespace": namespace}))


def _some_route(random: Random) -> Manifest:
    """Something that `exposure.gateway` takes."""
    label = ["a", "a-1", "0a", "x" * 63]
    parents: list[Manifest] = []
    for number in range(random.randint(1, 8)):
        parent: Manifest = {"name": f"{random.choice(label)}.{number}"}
        if random.random() < 0.5:
            parent["namespace"] = random.choice(label)
        if random.random() < 0.5:
            parent["sectionName"] = random.choice(label)
        parents.append(parent)
    if random.random() < 0.5:
        parents[1:] = [{"name": "one", "sectionName": f"s{number}"} for number in range(random.randint(1, 7))]
    found: Manifest = {"parentRefs": parents}
    if random.random() < 0.7:
        domains = "abcdefghijklmnop"[: random.randint(0, 16)]
        found["hostnames"] = [f"{random.choice(['', '*.', 'm.'])}{random.choice(label)}.{each}" for each in domains]
    if random.random() < 0.7:
        found["path"] = "".join(f"/{random.choice(['a', '~', '_x', '0.-~_Z'])}" for _ in range(random.randint(1, 30)))
    return found


@contextlib.asynccontextmanager
async def _closed(client: KubeClient) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client.close()
