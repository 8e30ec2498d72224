"""A pipeline and the InferenceModels that it is made of: edited together, broken, deleted, or too much for one pod."""

import asyncio

import pytest
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually
from tests.support.world import CHAIN, Asking, World, chain, scale

from podium_operator.kube.client import Manifest
from podium_operator.kube.kinds import Ref

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

MEMBER = {"modelRef": {"name": "scale"}}


async def serving(world: World) -> str:
    """A pipeline over a model without pods of its own answers; its revision."""
    await world.apply(scale(world.namespace, 2, replicas=0))
    await world.apply(chain(world.namespace, MEMBER))
    await world.until("Ready", "True", of=CHAIN)
    assert (await world.run(1.0))[0] == 20.0
    return str((await world.model(*CHAIN))["status"]["currentRevision"])


def tenfold_by(document: Manifest, factor: int) -> Manifest:
    """The pipeline with another factor in its inline member."""
    document["spec"]["models"][1]["inline"]["python"]["parameters"]["factor"] = factor
    return document


async def test_a_pipeline_and_its_member_edited_at_once_are_one_rollout(
    world: World, operator: OperatorProcess
) -> None:
    first = await serving(world)
    await asyncio.gather(
        world.apply(scale(world.namespace, 3, replicas=0)),
        world.apply(tenfold_by(chain(world.namespace, MEMBER), 100)),
    )

    async def both() -> bool:
        return (await world.run(1.0))[0] == 300.0

    await eventually(both, within_s=60)
    await world.until("Ready", "True", of=CHAIN)
    listed = await world.client.list("ControllerRevision", world.namespace, label_selector="podium.dev/pipeline=chain")
    current = (await world.model(*CHAIN))["status"]["currentRevision"]
    served = {row["name"] for row in (await world.model(*CHAIN))["status"]["revisions"]}
    assert served <= {first, current}, "nothing between the two was rolled out"
    assert {each["metadata"]["name"] for each in listed} >= {first, current}


async def test_a_member_that_does_not_load_leaves_the_pipeline_as_it_was_and_is_named(
    world: World, operator: OperatorProcess
) -> None:
    first = await serving(world)
    await world.apply(scale(world.namespace, -1, replicas=0))
    message = await world.until("UpToDate", "False", "RolledBack", of=CHAIN)
    status = (await world.model(*CHAIN))["status"]
    assert status["currentRevision"] == first
    failure = next(row["lastFailure"] for row in status["revisions"] if row.get("lastFailure"))
    assert "first" in f"{message} {failure['message']}", (message, failure)
    assert (await world.run(1.0))[0] == 20.0


async def test_a_pipeline_whose_workers_die_in_new_pods_gives_way_to_the_one_before(
    world: World, operator: OperatorProcess
) -> None:
    first = await serving(world)
    dying = tenfold_by(chain(world.namespace, MEMBER), 100)
    dying["spec"]["env"] = [{"name": "COLOUR", "value": "blue"}]
    dying["spec"]["models"][1]["inline"]["python"]["parameters"]["dies"] = True
    async with Asking(world, CHAIN) as asking:
        await world.apply(dying)
        message = await world.until("UpToDate", "False", "RolledBack", of=CHAIN)
        assert "model second: its workers keep dying" in message

        async def back() -> bool:
            await world.until("Available", "True", of=CHAIN)
            return (await world.model(*CHAIN))["status"]["currentRevision"] == first

        await eventually(back, within_s=90, what="the revision before")
        asking.answers.clear()
        await eventually(lambda: len(asking.answers) >= 20, within_s=60, what="20 answers")
        assert set(asking.answers) == {20.0}


async def test_a_member_that_is_deleted_is_reported_and_the_pipeline_serves_on(
    world: World, operator: OperatorProcess
) -> None:
    first = await serving(world)
    pods = world.node.uids()
    await world.client.delete(Ref("InferenceModel", world.namespace, "scale"))
    message = await world.until("Validated", "False", "ReferenceNotFound", of=CHAIN)
    assert "scale" in message
    status = (await world.model(*CHAIN))["status"]
    assert {each["type"]: each["status"] for each in status["conditions"]}["Available"] == "True"
    assert status["currentRevision"] == first
    assert (await world.run(1.0))[0] == 20.0
    assert world.node.uids() == pods


async def test_members_that_want_more_of_a_gpu_than_there_is_are_named_and_nothing_is_touched(
    world: World, operator: OperatorProcess
) -> None:
    first = await serving(world)
    await world.apply(scale(world.namespace, 2, replicas=0, gpuFraction="0.7"))
    message = await world.until("Validated", "False", "InvalidSpec", of=CHAIN)
    assert "first 0.7" in message
    assert "resources.limits.nvidia.com/gpu" in message
    assert (await world.model(*CHAIN))["status"]["currentRevision"] == first
    assert (await world.run(1.0))[0] == 20.0
