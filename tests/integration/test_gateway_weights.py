"""A surge in steps behind a gateway that follows the live HTTPRoute and asks real runtimes."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.conftest import install_crds
from tests.support.controlplane import ControlPlane
from tests.support.gateway_api import install_gateway_api
from tests.support.local_gateway import LocalGateway
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually
from tests.support.world import World, scale

from podium_operator.kube.client import Manifest
from podium_operator.kube.kinds import Ref

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

SURGE = {"strategy": "Surge", "steps": [{"weight": 10}]}
ROUTED = {"exposure": {"gateway": {"parentRefs": [{"name": "public"}], "weights": True}}}


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    """One of this file's own: elsewhere there is no Gateway API."""
    with ControlPlane() as plane:
        install_crds(plane)
        install_gateway_api(plane)
        yield plane


def model(world: World, factor: float, replicas: int = 2, **rollout: Any) -> Manifest:
    return scale(world.namespace, factor, replicas=replicas, rollout={**SURGE, **rollout}, **ROUTED)


async def weights(world: World) -> dict[str, int]:
    """How the live route divides."""
    route = await world.client.get(Ref("HTTPRoute", world.namespace, "scale"))
    [divided] = {str(rule["backendRefs"]): rule["backendRefs"] for rule in route["spec"]["rules"]}.values()
    return {each["name"]: each["weight"] for each in divided}


async def annotate(world: World, **words: str) -> None:
    named = {f"podium.dev/{word}": value for word, value in words.items()}
    wanted = Ref("InferenceModel", world.namespace, "scale")
    await world.client.merge_patch(wanted, {"metadata": {"annotations": named}}, resource_version=None)


async def until_alone(world: World) -> None:
    """Wait until the route knows no pool, and no pool has a Service."""

    async def alone() -> bool:
        services = await world.client.list("Service", world.namespace)
        return list(await weights(world)) == ["scale"] and [each["metadata"]["name"] for each in services] == ["scale"]

    await eventually(alone, within_s=60, what="the Service alone")


async def test_a_step_has_exactly_its_share_and_no_request_is_lost_on_the_way_to_all(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(model(world, 2))
    await world.until("Ready", "True")
    async with LocalGateway(world) as gateway:
        await world.until("Routed", "True", "RouteAccepted")
        await world.apply(model(world, 3))
        await world.until("Progressing", "True", "Paused")
        # One of three pods is new: 3/10 by the Service are a tenth of all.
        assert await weights(world) == {"scale": 3, "scale-0-pool": 7}
        new = (await world.model())["status"]["updateRevision"]

        async def shares_told() -> bool:
            rows = (await world.model())["status"]["revisions"]
            return {row["name"]: row["trafficPercent"] for row in rows}[new] == 10

        await eventually(shares_told, within_s=60, what="status to tell the share behind the gateway")
        gateway.answers.clear()

        async def many() -> bool:
            return gateway.answers.total() >= 200

        await eventually(many, within_s=60, what="200 answers")
        assert 0.08 <= gateway.answers[new] / gateway.answers.total() <= 0.12, gateway.answers
        await annotate(world, promote=new)
        await world.until("Ready", "True")
        await until_alone(world)
    assert gateway.failures == []
    assert {"scale": 1, "scale-0-pool": 0} in gateway.routes  # known before it weighs, and after it has weighed


@pytest.mark.parametrize("pool", ["scale-0", "scale-1"])
async def test_an_evicted_pod_of_either_revision_fails_no_request_behind_a_gateway(
    world: World, operator: OperatorProcess, pool: str
) -> None:
    await world.apply(model(world, 2))
    await world.until("Ready", "True")
    async with LocalGateway(world) as gateway:
        await world.until("Routed", "True", "RouteAccepted")
        await world.apply(model(world, 3))
        await world.until("Progressing", "True", "Paused")
        pods = await world.client.list("Pod", world.namespace, label_selector=f"podium.dev/pool={pool}")
        gone = pods[0]["metadata"]["name"]
        await world.client.delete(Ref("Pod", world.namespace, gone))

        async def replaced() -> bool:
            assert gone not in world.node.pods
            return await weights(world) == {"scale": 3, "scale-0-pool": 7}

        await eventually(replaced, within_s=90, what="the pod replaced, and the share as before")
    assert gateway.failures == []
    if pool == "scale-0":
        assert {"scale": 1, "scale-0-pool": 0} in gateway.routes[-3:]  # one pod alone has no weight


async def test_a_rollout_that_is_called_off_loses_no_request_behind_a_gateway(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(model(world, 2))
    await world.until("Ready", "True")
    old = (await world.model())["status"]["currentRevision"]
    async with LocalGateway(world) as gateway:
        await world.until("Routed", "True", "RouteAccepted")
        late = {"steps": [{"weight": 80}]}
        await world.apply(model(world, 3, **late))
        await world.until("Progressing", "True", "Paused")
        assert (await weights(world)).get("scale-1-pool", 0) > 0  # more than the share of its pods
        revision = (await world.model())["status"]["updateRevision"]
        await annotate(world, abort=revision)
        await world.until("UpToDate", "False", "RolledBack")

        async def only_old() -> bool:
            pods = await world.client.list("Pod", world.namespace)
            return {pod["metadata"]["labels"]["podium.dev/pool"] for pod in pods} == {"scale-0"}

        await eventually(only_old, within_s=90, what="the old pods alone")
        await until_alone(world)
        gateway.answers.clear()

        async def some() -> bool:
            return gateway.answers.total() >= 20

        await eventually(some, within_s=60, what="20 answers")
        assert set(gateway.answers) == {old}
    assert gateway.failures == []
