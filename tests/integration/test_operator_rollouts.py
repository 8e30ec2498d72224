"""Operator, API server and runtime, each real, without nodes: from apply to Ready, and from one version to the next."""

import signal
from collections.abc import Callable

import pytest
from tests.support.controlplane import ControlPlane
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually
from tests.support.world import CHAIN, Asking, World, chain, scale

from podium_operator.kube.kinds import Ref

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]


async def test_apply_comes_to_ready_and_answers_and_then_nothing_is_written(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2, replicas=2))
    await world.until("Ready", "True")
    assert (await world.ask(3.0))[0] == 6.0
    status = (await world.model())["status"]
    assert status["readyReplicas"] == 2
    assert status["updatedReplicas"] == 2
    assert status["currentRevision"] == status["updateRevision"]
    assert status["selector"] == "podium.dev/model=scale"

    async def settled() -> bool:
        return (await world.model())["status"].get("availableReplicas") == 2

    await eventually(settled, within_s=60)

    async def a_pass_writes_nothing() -> bool:
        before = await operator.writes(), await operator.passes()
        nudged = scale(world.namespace, 2, replicas=2)
        nudged["metadata"]["annotations"] = {"example.com/nudge": str(before)}
        await world.apply(nudged)

        async def passed() -> bool:
            return await operator.passes() > before[1]

        await eventually(passed, within_s=30)
        return await operator.writes() == before[0]

    await eventually(a_pass_writes_nothing, within_s=60)
    assert await a_pass_writes_nothing()


async def test_a_version_is_swapped_in_the_same_pods_without_a_failed_request(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2, replicas=2))
    await world.until("Ready", "True")
    pods = world.node.uids()
    async with Asking(world) as asking:
        await world.apply(scale(world.namespace, 3, replicas=2))
        await world.until("Ready", "True")
        await eventually(lambda: asking.answers[-1:] == [3.0])
    assert asking.failures == []
    assert set(asking.answers) == {2.0, 3.0}
    assert world.node.uids() == pods
    assert (await world.model())["status"]["strategy"]["resolved"] == "InPlace"


async def test_a_version_that_does_not_load_leaves_the_old_one_serving(world: World, operator: OperatorProcess) -> None:
    await world.apply(scale(world.namespace, 2, replicas=2))
    await world.until("Ready", "True")
    async with Asking(world) as asking:
        await world.apply(scale(world.namespace, -1, replicas=2))
        message = await world.until("UpToDate", "False", "RolledBack")
        assert "the weights are broken" in message
        await world.until("Progressing", "False", "LoadFailed")
        await world.until("Available", "True")
        await world.until("Ready", "False")
    assert asking.failures == []
    assert set(asking.answers) == {2.0}
    events = await world.client.list("Event", world.namespace)
    assert any(each["reason"] == "LoadFailed" and each["type"] == "Warning" for each in events), events
    rows = {row["name"]: row for row in (await world.model())["status"]["revisions"]}
    failed = rows[(await world.model())["status"]["updateRevision"]]
    assert failed["state"] == "Failed"
    assert failed["lastFailure"]["reason"] == "LoadFailed"
    await world.apply(scale(world.namespace, 5, replicas=2))
    await world.until("Ready", "True")
    assert (await world.ask())[0] == 5.0


async def test_a_changed_environment_surges_into_new_pods_without_a_failed_request(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    pods = world.node.uids()
    async with Asking(world) as asking:
        await world.apply(scale(world.namespace, 3, env=[{"name": "COLOUR", "value": "blue"}]))
        await world.until("Ready", "True")
        await eventually(lambda: not (pods & world.node.uids()), within_s=60)
        await eventually(lambda: asking.answers[-1:] == [3.0])
    assert asking.failures == []
    deployments = await world.client.list("Deployment", world.namespace)

    async def only_the_new() -> bool:
        found = await world.client.list("Deployment", world.namespace)
        return [each["metadata"]["name"] for each in found] == ["scale-1"]

    await eventually(only_the_new, within_s=60, what=str([d["metadata"]["name"] for d in deployments]))


async def test_a_surge_that_fails_leaves_the_old_pods_serving(world: World, operator: OperatorProcess) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    pods = world.node.uids()
    async with Asking(world) as asking:
        await world.apply(scale(world.namespace, -1, env=[{"name": "COLOUR", "value": "blue"}]))
        await world.until("UpToDate", "False", "RolledBack")
        await eventually(lambda: world.node.uids() == pods, within_s=60, what="the new pods to go")
    assert asking.failures == []
    assert set(asking.answers) == {2.0}


async def test_the_operator_killed_between_configmap_and_push_is_finished_by_the_next(
    world: World, control_plane: ControlPlane
) -> None:
    async with OperatorProcess(control_plane.kubeconfig, world.namespace) as first:
        await first.leading()
        await world.apply(scale(world.namespace, 2, replicas=2))
        await world.until("Ready", "True")
        pods = world.node.uids()
        await world.apply(scale(world.namespace, 3, replicas=2))
        await eventually(lambda: _has_promoted(first, 2), within_s=60)
        first.signal(signal.SIGKILL)
    async with OperatorProcess(control_plane.kubeconfig, world.namespace) as second:
        await second.leading()
        await world.until("Ready", "True")
        assert (await world.ask())[0] == 3.0
        assert world.node.uids() == pods


def _has_promoted(operator: OperatorProcess, times: int) -> bool:
    written = [each for each in operator.logged("action_performed") if each["action"] == "WriteAssignment"]
    return len({each["promoted"] for each in written}) >= times


async def test_a_killed_container_after_the_swap_comes_up_at_the_new_version(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    await world.apply(scale(world.namespace, 3))
    await world.until("Ready", "True")
    [pod] = world.node.pods.values()
    pod.kill()
    await eventually(lambda: pod.restarts == 1 and pod.ready_since, within_s=60, what=world.node.log_of(pod))
    assert (await world.ask())[0] == 3.0


async def test_the_admin_key_is_rotated_on_request_and_pods_stay_reachable(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    secret = Ref("Secret", world.namespace, "scale-admin-key")
    before = (await world.client.get(secret))["data"]
    rotated = scale(world.namespace, 3)
    rotated["metadata"]["annotations"] = {"podium.dev/rotate-admin-key": "1"}
    await world.apply(rotated)
    await world.until("Ready", "True")
    after = (await world.client.get(secret))["data"]
    assert after["previous"] == before["current"]
    assert after["current"] != before["current"]
    assert (await world.ask())[0] == 3.0


async def test_scaling_up_and_down_and_to_zero(world: World, operator: OperatorProcess) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    for replicas in (3, 1):
        await world.apply(scale(world.namespace, 2, replicas=replicas))
        await eventually(_ready_pods(world, replicas), within_s=60)
        assert (await world.condition("Ready"))[0] == "True"
    await world.apply(scale(world.namespace, 2, replicas=0))
    await world.until("Available", "False", "ScaledToZero")
    await world.until("UpToDate", "True", "ScaledToZero")
    await eventually(lambda: not world.node.pods, within_s=60)
    await world.apply(scale(world.namespace, 2, suspend=True))
    await world.until("Ready", "False", "Suspended")


def _ready_pods(world: World, count: int) -> Callable[[], bool]:
    return lambda: sum(pod.ready_since is not None for pod in world.node.pods.values()) == count == len(world.node.pods)


async def test_pods_that_the_api_server_refuses_are_a_condition_and_nothing_is_touched(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    await world.apply(scale(world.namespace, 3, tolerations=[{"operator": "Sometimes"}]))
    message = await world.until("Validated", "False", "InvalidSpec")
    assert "tolerations" in message
    await world.until("Progressing", "False", "InvalidSpec")
    await world.until("Available", "True")
    assert (await world.ask())[0] == 2.0


async def test_a_missing_source_is_named(world: World, operator: OperatorProcess) -> None:
    missing = scale(world.namespace, 2)
    missing["spec"]["source"] = {"uri": "configmap://nowhere"}
    await world.apply(missing)
    message = await world.until("Validated", "False", "ReferenceNotFound")
    assert "nowhere" in message


async def test_a_deployment_of_someone_else_is_left_alone(world: World, operator: OperatorProcess) -> None:
    labels = {"app": "mine"}
    container = {"name": "c", "image": "mine"}
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "scale-0", "namespace": world.namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    await world.client.create(foreign)
    await world.apply(scale(world.namespace, 2))
    message = await world.until("Degraded", "True", "ReconcileError")
    assert "Deployment" in message
    await world.client.delete(Ref("Deployment", world.namespace, "scale-0"))


async def test_a_resource_deleted_and_made_again_at_once_comes_to_ready(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    await world.client.delete(Ref("InferenceModel", world.namespace, "scale"))
    await world.apply(scale(world.namespace, 3))
    await operator.until_logged("precondition_failed")
    # As garbage collection does: what the deleted resource owned goes.
    gone = [
        Ref(kind, world.namespace, each["metadata"]["name"])
        for kind in ("Deployment", "ConfigMap", "Secret", "Service", "PodDisruptionBudget", "ControllerRevision")
        for each in await world.client.list(kind, world.namespace, label_selector="podium.dev/model=scale")
    ]
    uid = (await world.model())["metadata"]["uid"]
    for each in gone:
        live = await world.client.find(each)
        if live is not None and live["metadata"]["ownerReferences"][0]["uid"] != uid:
            await world.client.delete(each, uid=live["metadata"]["uid"])
    await world.until("Ready", "True")
    assert (await world.ask())[0] == 3.0


async def test_a_service_of_someone_else_is_left_alone(world: World, operator: OperatorProcess) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "scale", "namespace": world.namespace},
        "spec": {"ports": [{"port": 1}], "selector": {"app": "mine"}},
    }
    await world.client.create(foreign)
    await world.apply(scale(world.namespace, 2))
    message = await world.until("Degraded", "True", "ReconcileError")
    assert "Service" in message
    assert (await world.client.get(Ref("Service", world.namespace, "scale")))["spec"]["selector"] == {"app": "mine"}


async def test_a_pipeline_waits_for_its_member_then_serves_and_follows_the_member_s_edits(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(chain(world.namespace, {"modelRef": {"name": "scale"}}))
    message = await world.until("Validated", "False", "ReferenceNotFound", of=CHAIN)
    assert "scale" in message
    await world.apply(scale(world.namespace, 2, replicas=0))
    await world.until("Ready", "True", of=CHAIN)
    assert (await world.run(1.0))[0] == 20.0
    pods = world.node.uids()
    first = (await world.model(*CHAIN))["status"]["currentRevision"]
    await world.apply(scale(world.namespace, 3, replicas=0))

    async def follows() -> bool:
        return bool((await world.model(*CHAIN))["status"]["currentRevision"] != first)

    await eventually(follows, within_s=60)
    assert (await world.run(1.0))[0] == 30.0
    assert world.node.uids() == pods


async def test_a_pipeline_that_refers_to_a_model_loads_nothing_for_it_and_is_not_rolled_with_it(
    world: World, operator: OperatorProcess
) -> None:
    document = chain(world.namespace, {"modelRef": {"name": "scale"}})
    document["spec"]["placement"] = "Referenced"
    await world.apply(document)
    await world.until("Validated", "False", "ReferenceNotFound", of=CHAIN)
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    await world.until("Ready", "True", of=CHAIN)
    first = (await world.model(*CHAIN))["status"]["currentRevision"]
    with pytest.raises(AssertionError, match=r"cale at http://scale.*cannot be reached"):
        await world.run(1.0)  # nobody resolves Service names here: the step has asked the right one
    await world.apply(scale(world.namespace, 3))
    await world.until("Ready", "True")
    assert (await world.ask(1.0))[0] == 3.0
    settled = (await world.model(*CHAIN))["status"]
    assert settled["currentRevision"] == settled["updateRevision"] == first
    assert [row["name"] for row in settled["revisions"]] == [first]


async def test_a_pipeline_takes_the_promoted_revision_of_a_member_with_pods_of_its_own(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    await world.apply(chain(world.namespace, {"modelRef": {"name": "scale"}}))
    await world.until("Ready", "True", of=CHAIN)
    first = (await world.model(*CHAIN))["status"]["updateRevision"]
    await world.apply(scale(world.namespace, -1))
    await world.until("UpToDate", "False", "RolledBack")
    assert (await world.run(1.0))[0] == 20.0
    assert (await world.model(*CHAIN))["status"]["updateRevision"] == first


async def test_a_pipeline_follows_the_promotion_of_its_member_at_once(world: World, operator: OperatorProcess) -> None:
    await world.apply(scale(world.namespace, 2))
    await world.until("Ready", "True")
    await world.apply(chain(world.namespace, {"modelRef": {"name": "scale"}}))
    await world.until("Ready", "True", of=CHAIN)
    await world.apply(scale(world.namespace, 3))
    await world.until("Ready", "True")

    async def tenfold() -> bool:
        return (await world.run(1.0))[0] == 30.0

    # Well below the half minute after which a settled resource is looked at anyway.
    await eventually(tenfold, within_s=20)


async def test_a_graph_that_cannot_run_is_refused_with_step_and_edge(world: World, operator: OperatorProcess) -> None:
    await world.apply(scale(world.namespace, 2, replicas=0))
    broken = chain(world.namespace, {"modelRef": {"name": "scale"}})
    broken["spec"]["steps"][1]["inputs"][0]["from"] = "one.nothing"
    await world.apply(broken)
    message = await world.until("Validated", "False", "InvalidSpec", of=CHAIN)
    assert "two" in message
    assert "one.nothing" in message
