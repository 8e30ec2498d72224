"""The whole operator, as a process, against a real API server. No node runs here, so no pod ever starts."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import Signals
from typing import Any

import pytest
from tests.support.controlplane import ControlPlane
from tests.support.gate import Gate
from tests.support.manifests import a_model, a_pipeline
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually

from podium_crds.keys import LABEL_MANAGED_BY, MANAGED_BY
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.kinds import Ref

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

CHILDREN = ("ControllerRevision", "ConfigMap", "Deployment", "Secret", "Service", "PodDisruptionBudget")

Operator = Callable[..., OperatorProcess]


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str) -> Operator:
    def make(**settings: object) -> OperatorProcess:
        return OperatorProcess(control_plane.kubeconfig, namespace, **settings)

    return make


class Seen:
    """What a namespace holds."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def children(self, kind: str) -> list[Manifest]:
        """Objects of a kind that bear the operator's label."""
        selector = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
        return await self._client.list(kind, self._namespace, label_selector=selector)

    async def all_children(self) -> dict[str, list[Manifest]]:
        """Every kind of child, by kind."""
        return {kind: await self.children(kind) for kind in CHILDREN}

    async def complete(self) -> dict[str, list[Manifest]] | None:
        """All children, or None while a kind has none."""
        found = await self.all_children()
        return found if all(found.values()) else None

    async def condition(self, type_: str, name: str = "minilm", kind: str = "InferenceModel") -> dict[str, Any] | None:
        """A condition of a resource, or None while it has none."""
        manifest = await self._client.get(Ref(kind, self._namespace, name))
        conditions = manifest.get("status", {}).get("conditions", ())
        return next((each for each in conditions if each["type"] == type_), None)

    async def versions(self) -> dict[str, str]:
        """Name → resourceVersion of everything that the operator may write."""
        found = {}
        for kind in (*CHILDREN, "InferenceModel", "InferencePipeline", "Event"):
            for each in await self._client.list(kind, self._namespace):
                found[f"{kind}/{each['metadata']['name']}"] = each["metadata"]["resourceVersion"]
        return found


@pytest.fixture
def seen(client: KubeClient, namespace: str) -> Seen:
    return Seen(client, namespace)


@asynccontextmanager
async def settled(operator: OperatorProcess, client: KubeClient, seen: Seen, model: Manifest) -> AsyncIterator[None]:
    """The model applied, the operator leading, and all children there."""
    await client.apply(model)
    async with operator:
        await operator.leading()
        await eventually(seen.complete, what="all children")
        await quiet(operator)
        yield


async def quiet(operator: OperatorProcess, for_s: float = 1.0) -> None:
    """Wait until the operator has written nothing for a while."""
    loop = asyncio.get_running_loop()
    state = {"writes": await operator.writes(), "since": loop.time()}

    async def still() -> bool:
        writes = await operator.writes()
        if writes != state["writes"]:
            state.update(writes=writes, since=loop.time())
        return loop.time() - state["since"] >= for_s

    await eventually(still, what="operator writes nothing")


async def test_a_model_gets_all_its_children(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    async with settled(operator(), client, seen, a_model(namespace)):
        model = await client.get(Ref("InferenceModel", namespace, "minilm"))
        children = await seen.all_children()
        assert {kind: len(found) for kind, found in children.items()} == dict.fromkeys(CHILDREN, 1)
        for found in children.values():
            [owner] = found[0]["metadata"]["ownerReferences"]
            assert (owner["uid"], owner["controller"]) == (model["metadata"]["uid"], True)
            assert "finalizers" not in found[0]["metadata"]
        assert model["status"]["observedGeneration"] == model["metadata"]["generation"]


async def test_the_deployment_uses_the_image_that_the_operator_was_given(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    async with settled(operator(runtime_image="registry.example/runtime:7"), client, seen, a_model(namespace)):
        [deployment] = await seen.children("Deployment")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example/runtime:7"


async def test_the_first_report_says_what_is_waited_for(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    async with settled(operator(), client, seen, a_model(namespace)):
        found = {
            type_: condition["status"]
            for type_ in ("Ready", "Available", "Progressing", "UpToDate", "Validated")
            if (condition := await seen.condition(type_))
        }
    assert found == {
        "Ready": "False",
        "Available": "False",
        "Progressing": "True",
        "UpToDate": "False",
        "Validated": "True",
    }


async def test_nothing_is_written_in_the_steady_state_however_often_it_is_looked_at(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    process = operator(resync_seconds=1)
    async with settled(process, client, seen, a_model(namespace)):
        versions, writes = await seen.versions(), await process.writes()
        passes = sum((await process.samples("podium_operator_reconcile_total")).values())

        async def looked_again() -> bool:
            now = await process.samples("podium_operator_reconcile_total")
            return sum(now.values()) >= passes + 5

        await eventually(looked_again, what="five more passes")
        assert await process.writes() == writes
        assert await seen.versions() == versions


async def test_a_restart_writes_nothing(operator: Operator, client: KubeClient, seen: Seen, namespace: str) -> None:
    async with settled(first := operator(), client, seen, a_model(namespace)):
        assert await first.stop() == 0
    versions = await seen.versions()
    async with operator() as second:
        await second.leading()

        async def looked() -> bool:
            return bool(await second.samples("podium_operator_reconcile_total"))

        await eventually(looked, what="a pass")
        await quiet(second)
        assert await second.writes() == 0
    assert await seen.versions() == versions


@pytest.mark.parametrize("kind", CHILDREN)
async def test_a_child_deleted_by_hand_comes_back(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str, kind: str
) -> None:
    async with settled(operator(), client, seen, a_model(namespace)):
        [before] = await seen.children(kind)
        await client.delete(Ref(kind, namespace, before["metadata"]["name"]))

        async def back() -> bool:
            found = [each["metadata"]["uid"] for each in await seen.children(kind)]
            return bool(found) and before["metadata"]["uid"] not in found

        await eventually(back, what=f"{kind} is back")


async def test_a_child_changed_by_hand_is_put_right_once(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str, control_plane: ControlPlane
) -> None:
    process = operator()
    async with settled(process, client, seen, a_model(namespace)):
        [before] = await seen.children("Service")
        patch = json.dumps(
            {"spec": {"selector": {"podium.dev/model": "another"}}, "metadata": {"labels": {"team": "x"}}}
        )
        control_plane.kubectl("patch", "service", "minilm", "-n", namespace, "--type=merge", "-p", patch)

        async def right() -> bool:
            [found] = await seen.children("Service")
            return bool(found["spec"]["selector"] == before["spec"]["selector"])

        await eventually(right, what="the selector is right again")
        [after] = await seen.children("Service")
        assert after["metadata"]["labels"]["team"] == "x"
        await quiet(process)


async def test_an_object_of_someone_else_is_left_alone_and_named_in_a_condition(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    foreign = {
        "kind": "Service",
        "metadata": {"name": "minilm", "namespace": namespace, "labels": {"owner": "someone"}},
        "spec": {"ports": [{"port": 1234}], "selector": {"app": "theirs"}},
    }
    theirs = await client.apply(foreign)
    await client.apply(a_model(namespace))
    async with operator() as process:
        await process.leading()

        async def said() -> bool:
            condition = await seen.condition("Degraded")
            return bool(condition and condition["status"] == "True" and "Service" in condition["message"])

        await eventually(said, what="a condition that names the Service")
        found = await client.get(Ref("Service", namespace, "minilm"))
        assert found["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]


async def test_nothing_happens_while_the_operator_is_down(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    async with settled(process := operator(), client, seen, a_model(namespace)):
        assert await process.stop() == 0
    before = await seen.versions()
    await client.apply(a_model(namespace, "second"))
    assert set(await seen.versions()) == {*before, "InferenceModel/second"}
    async with operator() as process:
        await process.leading()

        async def caught_up() -> bool:
            return len(await seen.children("Deployment")) == 2

        await eventually(caught_up, what="the second model's Deployment")


async def test_a_new_version_is_recorded_as_a_revision(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    async with settled(operator(), client, seen, a_model(namespace, version="1")):
        await client.apply(a_model(namespace, version="2"))

        async def recorded() -> bool:
            return len(await seen.children("ControllerRevision")) == 2

        await eventually(recorded, what="two revisions")


async def test_a_pipeline_waits_for_a_model_that_does_not_exist_yet(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    await client.apply(a_pipeline(namespace, model="minilm"))
    async with operator() as process:
        await process.leading()

        async def missing() -> bool:
            found = await seen.condition("Validated", "answers", "InferencePipeline")
            return bool(found and found["reason"] == "ReferenceNotFound")

        await eventually(missing, what="ReferenceNotFound")
        await client.apply(a_model(namespace, replicas=0))

        async def found() -> bool:
            condition = await seen.condition("Validated", "answers", "InferencePipeline")
            return bool(condition and condition["status"] == "True")

        await eventually(found, what="Validated once the model is there")


async def test_pods_that_the_api_server_refuses_are_a_condition_and_change_nothing(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    model = a_model(namespace, env=[{"name": "NOT A NAME=", "value": "1"}])
    await client.apply(model)
    async with operator() as process:
        await process.leading()

        async def refused() -> bool:
            condition = await seen.condition("Validated")
            return bool(condition and condition["status"] == "False" and "env" in condition["message"])

        await eventually(refused, what="Validated False with the server's words")
        assert await seen.children("Deployment") == []


async def test_a_transition_is_told_as_one_event(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    await client.apply(a_pipeline(namespace, model="absent"))
    async with operator(resync_seconds=1) as process:
        await process.leading()

        async def told() -> list[Manifest]:
            return [each for each in await client.list("Event", namespace) if each["type"] == "Warning"]

        await eventually(told, what="a Warning")
        await quiet(process, for_s=3.0)
        events = await told()
        assert [each["reason"] for each in events] == ["ReferenceNotFound"]
        assert events[0]["regarding"]["name"] == "answers"
        assert events[0]["reportingController"] == "podium.dev/operator"


async def test_sigterm_gives_the_lease_up_and_another_leads_at_once(
    operator: Operator, client: KubeClient, namespace: str
) -> None:
    # A lease this long could not be outwaited within the test's limit.
    timings = {"lease_duration_seconds": 3600, "lease_renew_seconds": 3000}
    async with operator(identity="first", **timings) as first, operator(identity="second", **timings) as second:
        await eventually(lambda: first.logged("leading") or second.logged("leading"), what="a leader")
        leader, other = (first, second) if first.logged("leading") else (second, first)
        assert await leader.stop() == 0
        assert leader.logged("lease_released")
        assert (await other.until_logged("leading"))["transitions"] == 1


async def test_a_leader_that_was_stopped_and_woken_exits_and_writes_nothing(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    first = operator(identity="first")
    async with settled(first, client, seen, a_model(namespace)), operator(identity="second") as second:
        first.signal(Signals.SIGSTOP)
        assert (await second.until_logged("leading"))["transitions"] == 1
        # Work for the one that sleeps, done by the one that leads.
        await client.apply(a_model(namespace, "while-asleep"))

        async def done() -> bool:
            return len(await seen.children("Deployment")) == 2

        await eventually(done, what="the second leader at work")
        await quiet(second)
        before = await seen.versions()
        first.signal(Signals.SIGCONT)
        assert await first.exit_code() == 1
        assert first.logged("stopped_by_failure")[0]["failure"] == "LeaseLost"
        assert await seen.versions() == before
        assert second.running


async def test_a_killed_leader_is_replaced_once_its_lease_has_run_out(operator: Operator) -> None:
    async with operator(identity="first") as first:
        await first.leading()
        async with operator(identity="second") as second:
            await second.until_logged("caches_primed")
            first.signal(Signals.SIGKILL)
            assert (await second.until_logged("leading"))["transitions"] == 1


async def test_a_replica_that_waits_to_lead_is_ready_and_writes_nothing(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    second = operator(identity="second")
    async with settled(operator(identity="first"), client, seen, a_model(namespace)), second:
        await second.until_logged("caches_primed")

        async def ready() -> bool:
            return (await second.http("/readyz"))[0] == 200

        await eventually(ready, what="readyz")
        await client.apply(a_model(namespace, "another"))
        await quiet(second, for_s=2.0)
        assert await second.writes() == 0
        assert (await second.samples("podium_operator_leader")) == {"": 0.0}


async def test_it_is_alive_but_not_ready_while_there_is_no_api_server(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with Gate(control_plane.url) as gate:
        kubeconfig = gate.kubeconfig(control_plane.kubeconfig, tmp_path)
        await gate.close()
        async with OperatorProcess(kubeconfig, namespace) as process:
            await process.until_logged("priming_failed")
            assert (await process.http("/readyz")) == (503, "[-]caches-primed failed\n")
            assert (await process.http("/healthz"))[0] == 200
            await gate.open()
            await process.leading()
            assert (await process.http("/readyz"))[0] == 200
            assert (await process.http("/healthz"))[0] == 200


async def test_a_leader_without_api_server_stops_and_touches_nothing(
    control_plane: ControlPlane, client: KubeClient, seen: Seen, namespace: str, tmp_path: Path
) -> None:
    async with Gate(control_plane.url) as gate:
        kubeconfig = gate.kubeconfig(control_plane.kubeconfig, tmp_path)
        process = OperatorProcess(kubeconfig, namespace)
        async with settled(process, client, seen, a_model(namespace)):
            before = await seen.versions()
            await gate.close()
            assert await process.exit_code() == 1
            assert process.logged("stopped_by_failure")[0]["failure"] == "LeaseLost"
        assert await seen.versions() == before


async def test_a_misspelt_setting_is_refused_by_name(operator: Operator) -> None:
    async with operator(resync_secs=1) as process:
        assert await process.exit_code() == 2
        [refused] = process.logged("settings_refused")
        assert "PODIUM_OPERATOR_RESYNC_SECS" in refused["cause"]


async def test_every_line_it_logs_is_json_with_an_event(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    async with settled(process := operator(log_level="DEBUG"), client, seen, a_model(namespace)):
        assert await process.stop() == 0
    assert process.logged("no_json") == []
    assert all({"time", "level", "logger", "event"} <= each.keys() for each in process.logs)


async def test_secrets_are_never_logged(operator: Operator, client: KubeClient, seen: Seen, namespace: str) -> None:
    async with settled(process := operator(log_level="DEBUG"), client, seen, a_model(namespace)):
        [secret] = await seen.children("Secret")
        assert await process.stop() == 0
    assert secret["data"]["current"] not in json.dumps(process.logs)


async def test_a_signal_while_it_waits_for_the_api_server_ends_it_at_once(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with Gate(control_plane.url) as gate:
        kubeconfig = gate.kubeconfig(control_plane.kubeconfig, tmp_path)
        await gate.close()
        async with OperatorProcess(kubeconfig, namespace) as process:
            await process.until_logged("priming_failed")
            assert await process.stop() == 0


async def test_it_gives_up_with_the_reason_where_the_api_server_stays_away(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with Gate(control_plane.url) as gate:
        kubeconfig = gate.kubeconfig(control_plane.kubeconfig, tmp_path)
        await gate.close()
        async with OperatorProcess(kubeconfig, namespace, prime_timeout_seconds=5) as process:
            assert await process.exit_code() == 1
            [said] = process.logged("stopped_by_failure")
            assert said["failure"] == "NotPrimed"
            assert "127.0.0.1" in said["cause"]


async def test_grpc_asked_for_is_a_port_of_pods_and_service_and_an_endpoint(
    operator: Operator, client: KubeClient, seen: Seen, namespace: str
) -> None:
    async with settled(operator(), client, seen, a_model(namespace, exposure={"grpc": True})):
        [service] = await seen.children("Service")
        assert {port["name"]: port["targetPort"] for port in service["spec"]["ports"]} == {
            "http": "http",
            "grpc": "grpc",
        }
        [deployment] = await seen.children("Deployment")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert {"name": "grpc", "containerPort": 8082, "protocol": "TCP"} in container["ports"]
        assert {"name": "PODIUM_GRPC_PORT", "value": "8082"} in container["env"]
        model = await client.get(Ref("InferenceModel", namespace, "minilm"))
        urls = {each["name"]: each["url"] for each in model["status"]["endpoints"]}
        assert urls["grpc"] == f"grpc://minilm.{namespace}.svc:8082"
