"""`podium status`, `promote`, `abort`, `rollback`, `pause` and `resume`, as a user calls them."""

import asyncio
import re
import sys
from pathlib import Path

import pytest
import yaml
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually
from tests.support.world import World, scale

from podium_operator.kube.client import Manifest

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

STEPS = {"steps": [{"weight": 20}, {"weight": 60}]}


async def podium(world: World, *words: str) -> tuple[int, str]:
    """The command's exit status and all that it printed, colours left out."""
    place = ("-n", world.namespace, "--kubeconfig", str(world.plane.kubeconfig))
    code = "from podium_operator.commands.app import app; app()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *words, *place, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, re.sub(r"\x1b\[[0-9;]*m", "", printed.decode())


async def waits_at(world: World, step: int) -> bool:
    status = (await world.model())["status"]
    rows = {row["name"]: row["trafficPercent"] for row in status["revisions"]}
    at = status.get("canary") or {}
    return at.get("step") == step and rows.get(status["updateRevision"]) == at["weight"]


async def test_a_rollout_driven_from_the_terminal(world: World, operator: OperatorProcess) -> None:
    await world.apply(scale(world.namespace, 2, rollout=STEPS))
    await world.until("Ready", "True")
    first = (await world.model())["status"]["currentRevision"]
    code, said = await podium(world, "abort", "scale")
    assert (code, said) == (0, f"nothing is in progress: {first} serves\n")
    code, said = await podium(world, "rollback", "scale")
    assert code == 1
    assert "nothing to go back to" in said
    await world.apply(scale(world.namespace, 3, rollout=STEPS))
    await eventually(lambda: waits_at(world, 1), within_s=60)
    second = (await world.model())["status"]["updateRevision"]
    code, said = await podium(world, "status", "imdl/scale")
    assert code == 0
    assert re.search(rf"{second} +3 +Active +20 %", said), said
    assert re.search(r"Progressing +True +Paused", said), said
    code, said = await podium(world, "promote", "scale")
    assert (code, said) == (0, f"{second} goes on past step 1\n")
    await eventually(lambda: waits_at(world, 2), within_s=60)
    assert (await podium(world, "pause", "scale"))[0] == 0
    assert (await world.model())["spec"]["rollout"]["paused"] is True
    assert (await podium(world, "resume", "scale"))[0] == 0
    assert (await podium(world, "abort", "scale"))[1].startswith(f"{second} is given up, {first}")
    await world.until("UpToDate", "False", "RolledBack")
    assert (await podium(world, "promote", "--full", "scale"))[0] == 0
    await world.until("Ready", "True")
    assert (await podium(world, "rollback", "scale", "--to", "scale-none"))[1].startswith(
        "error: no revision scale-none"
    )
    assert (await podium(world, "rollback", "scale"))[0] == 0
    await world.until("UpToDate", "False", "RolledBack")
    assert (await world.ask())[0] == 2.0


async def test_a_name_that_is_not_there_and_a_kind_that_is_none(world: World) -> None:
    code, said = await podium(world, "status", "nobody")
    assert code == 1
    assert f"there is no InferenceModel or InferencePipeline nobody in namespace {world.namespace}" in said
    code, said = await podium(world, "pause", "deployment/scale")
    assert code == 1
    assert "write imdl/scale or ipl/scale" in said
    code, said = await podium(world, "status")
    assert code == 1
    assert "there is no InferenceModel or InferencePipeline in namespace" in said


async def test_a_plan_says_what_the_operator_then_does(world: World, operator: OperatorProcess, tmp_path: Path) -> None:
    async def plan(manifest: Manifest) -> str:
        file = tmp_path / "model.yaml"
        file.write_text(yaml.safe_dump(manifest))
        code, said = await podium(world, "plan", "-f", str(file))
        assert code == 0, said
        return said

    first = scale(world.namespace, 2)
    assert "scale: new; revision scale-" in await plan(first)
    await world.apply(first)
    await world.until("Ready", "True")
    assert "nothing would change" in await plan(first)
    second = scale(world.namespace, 3)
    version = (await world.model())["metadata"]["resourceVersion"]
    said = await plan(second)
    assert "strategy    InPlace" in said
    assert "python.parameters.factor: 2 → 3" in said
    assert (await world.model())["metadata"]["resourceVersion"] == version
    await world.apply(second)
    await world.until("Ready", "True")
    status = (await world.model())["status"]
    assert f"→ {status['currentRevision']}" in said
    assert status["strategy"]["resolved"] == "InPlace"
    gateway = {"gateway": {"parentRefs": [{"name": "public"}]}}
    assert "route       none: the cluster knows no HTTPRoute" in await plan(scale(world.namespace, 3, exposure=gateway))
    surge = scale(world.namespace, 3, env=[{"name": "A", "value": "b"}])
    assert "strategy    Surge" in await plan(surge)
    broken = scale(world.namespace, 3)
    broken["spec"]["source"] = {"uri": "configmap://nowhere"}
    assert "would be refused (ReferenceNotFound)" in await plan(broken)


async def test_a_file_that_the_api_server_refuses_is_answered_with_its_reason(world: World, tmp_path: Path) -> None:
    wrong = scale(world.namespace, 2, rollout={"maxSurge": 0})
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump(wrong))
    code, said = await podium(world, "plan", "-f", str(file))
    assert code == 1
    assert "maxSurge and maxUnavailable are both 0" in said
