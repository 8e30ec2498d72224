"""Rollouts in steps, on a real API server and real runtimes: shares, promotion, analysis, the user's annotations."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.support.operator_process import OperatorProcess
from tests.support.prometheus import FakePrometheus, vector
from tests.support.real_prometheus import RealPrometheus
from tests.support.waiting import eventually
from tests.support.world import Asking, World, scale

from podium_operator.kube.kinds import Ref

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]


async def canary(world: World) -> dict[str, Any]:
    """status.canary once every pod has its share."""

    async def shared() -> dict[str, Any]:
        status = (await world.model())["status"]
        found: dict[str, Any] = status.get("canary") or {}
        assert found, status
        rows = {row["name"]: row["trafficPercent"] for row in status["revisions"]}
        assert rows.get(status["updateRevision"]) == found["weight"], rows
        return found

    found = await eventually(shared, within_s=60)
    assert found is not None
    return found


async def annotate(world: World, **words: str | None) -> None:
    """What the user says; None takes it back."""
    named = {f"podium.dev/{word.replace('_', '-')}": value for word, value in words.items()}
    wanted = Ref("InferenceModel", world.namespace, "scale")
    await world.client.merge_patch(wanted, {"metadata": {"annotations": named}}, resource_version=None)


async def test_each_step_gives_exactly_its_share_until_it_is_promoted(world: World, operator: OperatorProcess) -> None:
    steps = {"steps": [{"weight": 25}, {"weight": 75}]}
    await world.apply(scale(world.namespace, 2, replicas=2, rollout=steps))
    await world.until("Ready", "True")
    pods = world.node.uids()
    async with Asking(world) as asking:
        await world.apply(scale(world.namespace, 3, replicas=2, rollout=steps))
        assert (await canary(world))["step"] == 1
        message = await world.until("Progressing", "True", "Paused")
        assert "podium promote" in message
    assert asking.failures == []
    assert await share_of_new(world) == 10
    revision = (await world.model())["status"]["updateRevision"]
    await annotate(world, promote=f"{revision}/1")
    await eventually(lambda: at_step(world, 2), within_s=60)
    await canary(world)
    assert await share_of_new(world) == 30
    async with Asking(world) as asking:
        await annotate(world, promote=revision)
        await world.until("Ready", "True")
    assert asking.failures == []
    assert world.node.uids() == pods
    assert "canary" not in (await world.model())["status"]


async def share_of_new(world: World) -> int:
    """Of 40 requests, those that version 3 answered."""
    return Counter([(await world.ask())[0] for _ in range(40)])[3.0]


async def serves_another(world: World, revision: str) -> bool:
    return bool((await world.model())["status"]["currentRevision"] != revision)


async def has_no_share(world: World, revision: str) -> bool:
    rows = (await world.model())["status"]["revisions"]
    return all(row["trafficPercent"] == 0 for row in rows if row["name"] == revision)


async def at_step(world: World, step: int) -> bool:
    found = (await world.model())["status"].get("canary") or {}
    return found.get("step") == step


async def test_a_version_that_fails_requests_is_given_up_by_the_pods_own_counts(
    world: World, operator: OperatorProcess
) -> None:
    rollout = {
        "steps": [{"weight": 50, "pauseSeconds": 3600}],
        "analysis": {"maxErrorPercent": 10, "minRequests": 20},
    }
    await world.apply(scale(world.namespace, 2, rollout=rollout))
    await world.until("Ready", "True")
    broken = scale(world.namespace, 3, rollout=rollout)
    broken["spec"]["python"]["parameters"]["fails"] = True
    async with Asking(world) as asking:
        await world.apply(broken)
        await world.until("UpToDate", "False", "RolledBack")
        message = await world.until("Progressing", "False", "AnalysisFailed")
        assert "at most 10 % are allowed" in message
        failed = (await world.model())["status"]["updateRevision"]
        await eventually(lambda: has_no_share(world, failed), within_s=30)
        asking.failures.clear()
        asking.answers.clear()
        await eventually(lambda: len(asking.answers) > 20)
    assert set(asking.answers) == {2.0}
    assert asking.failures == []
    await world.until("Available", "True")


async def test_abort_and_rollback_by_annotation_and_going_on_when_it_is_taken_away(
    world: World, operator: OperatorProcess
) -> None:
    steps = {"steps": [{"weight": 50}]}
    await world.apply(scale(world.namespace, 2, rollout=steps))
    await world.until("Ready", "True")
    async with Asking(world) as asking:
        await world.apply(scale(world.namespace, 3, rollout=steps))
        await canary(world)
        revision = (await world.model())["status"]["updateRevision"]
        await annotate(world, abort=revision)
        await world.until("UpToDate", "False", "RolledBack")
        await eventually(lambda: has_no_share(world, revision), within_s=30)
        assert {(await world.ask())[0] for _ in range(10)} == {2.0}
        await annotate(world, abort=None, promote=revision)
        await world.until("Ready", "True")
        assert (await world.ask())[0] == 3.0
        await annotate(world, rollback=revision)
        await world.until("UpToDate", "False", "RolledBack")
        await eventually(lambda: asking.answers[-1:] == [2.0])
        await eventually(lambda: serves_another(world, revision), within_s=30)
        await annotate(world, rollback=None)
        await world.until("Ready", "True")
        assert (await world.ask())[0] == 3.0
    assert asking.failures == []


SHADOWED = {
    "steps": [{"weight": 0, "pauseSeconds": 1}],
    "analysis": {"parity": {"shadowPercent": 50, "minCompared": 10}},
}


async def test_a_version_that_answers_otherwise_is_given_up_by_copies_alone(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(scale(world.namespace, 2, replicas=2, rollout=SHADOWED, idempotent=True))
    await world.until("Ready", "True")
    async with Asking(world) as asking:
        await world.apply(scale(world.namespace, 3, replicas=2, rollout=SHADOWED, idempotent=True))
        message = await world.until("Progressing", "False", "AnalysisFailed")
        assert "output 'y' is off by 1 where 0.003 is allowed" in message
        await world.until("UpToDate", "False", "RolledBack")
    assert asking.failures == []
    assert set(asking.answers) == {2.0}
    await world.until("Available", "True")


async def test_a_version_that_answers_alike_says_so_and_takes_over(world: World, operator: OperatorProcess) -> None:
    rollout = {**SHADOWED, "steps": [{"weight": 0}]}
    await world.apply(scale(world.namespace, 2, rollout=rollout, idempotent=True))
    await world.until("Ready", "True")
    alike = scale(world.namespace, 2, rollout=rollout, idempotent=True)
    alike["spec"]["version"] = "two-again"
    alike["spec"]["python"]["parameters"]["note"] = "loads anew"
    async with Asking(world) as asking:
        await world.apply(alike)

        async def compared() -> str:
            found = (await world.model())["status"].get("canary") or {}
            assert found.get("shadow", {}).get("compared", 0) >= 10, found
            assert found["shadow"]["mismatched"] == 0, found
            return str(found["analysis"])

        assert "answers as what serves" in (await eventually(compared, within_s=60) or "")
        await annotate(world, promote=(await world.model())["status"]["updateRevision"])
        await world.until("Ready", "True")
    assert asking.failures == []


async def test_a_number_of_prometheus_gives_a_version_up_and_a_server_that_is_away_does_not(world: World) -> None:
    async with (
        FakePrometheus() as server,
        OperatorProcess(
            world.plane.kubeconfig, world.namespace, prometheus_addresses=f"http://other:9090,{server.address}"
        ) as operator,
    ):
        await operator.leading()
        query = 'bad{revision="{{revision}}"}'
        check = {"address": server.address, "query": query, "maxValue": "0.1"}
        rollout = {"steps": [{"weight": 50, "pauseSeconds": 1}], "analysis": {"prometheus": check}}
        server.says, server.status = "away", 503
        await world.apply(scale(world.namespace, 2, rollout=rollout))
        await world.until("Ready", "True")
        async with Asking(world) as asking:
            await world.apply(scale(world.namespace, 3, rollout=rollout))
            await eventually(lambda: is_held(world), within_s=60)
            server.says, server.status = vector(0.5), 200
            message = await world.until("Progressing", "False", "AnalysisFailed")
        revision = (await world.model())["status"]["updateRevision"]
        assert message.endswith(f"the query gives 0.5 for {revision}, at most 0.1 is allowed")
        assert set(server.queries) == {f'bad{{revision="{revision}"}}'}
        assert asking.failures == []


async def test_a_real_prometheus_that_scrapes_the_pods_lets_one_version_through_and_refuses_the_next(
    world: World, tmp_path: Path
) -> None:
    def counted(address: str, at_most: str) -> dict[str, Any]:
        query = 'sum(rate(podium_requests_total{model="scale", revision="{{revision}}", code="200"}[5s]))'
        check = {"address": address, "query": query, "maxValue": at_most}
        return {"steps": [{"weight": 50, "pauseSeconds": 1}], "analysis": {"prometheus": check}}

    await serve_first(world)
    targets = [pod.url.removeprefix("http://") for pod in world.node.pods.values()]
    async with (
        RealPrometheus(tmp_path, targets) as server,
        OperatorProcess(world.plane.kubeconfig, world.namespace, prometheus_addresses=server.address) as operator,
    ):
        await operator.leading()
        async with Asking(world) as asking:
            await world.apply(scale(world.namespace, 3, rollout=counted(server.address, "1000000")))
            await world.until("Ready", "True")
            await eventually(lambda: answered(asking, 3.0), within_s=60)
            await world.apply(scale(world.namespace, 4, rollout=counted(server.address, "0.001")))
            message = await world.until("Progressing", "False", "AnalysisFailed")
        assert "at most 0.001 is allowed" in message
        assert asking.failures == []


async def serve_first(world: World) -> None:
    """Version 2 serves; the operator that brought it up is gone."""
    async with OperatorProcess(world.plane.kubeconfig, world.namespace) as operator:
        await operator.leading()
        await world.apply(scale(world.namespace, 2))
        await world.until("Ready", "True")


async def answered(asking: Asking, answer: float) -> bool:
    return answer in asking.answers


async def is_held(world: World) -> bool:
    found = (await world.model())["status"].get("canary") or {}
    return "Prometheus says nothing" in found.get("analysis", "")
