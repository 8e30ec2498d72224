"""Pods with a memory limit of their own, and a version that has no room in one of them beside what it serves."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.serving.processes import cgroup
from tests.runtime.serving.test_memory_admission import safetensors
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually
from tests.support.world import CODE, Asking, World, scale

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

MIB = 1 << 20
LIMIT_BYTES = 640 * MIB
WEIGHTS_MIB = 250
"""One such version fits in a pod, two do not: what only the pod knows, from the file that it fetched."""


@pytest.fixture
def limits() -> Iterator[list[tuple[str, ...]]]:
    """Commands that each run a container under the limit, for two pods. Ask for it before `world`, whose pods must be
    gone before it is."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(cgroup(LIMIT_BYTES)) for _ in range(2)]


def heavy(world: World, folder: Path, factor: float, **rollout: Any) -> dict[str, Any]:
    """A version with weights of its own."""
    artifact = folder / f"x{factor:g}"
    if not artifact.exists():
        artifact.mkdir()
        (artifact / "scale.py").write_text(CODE)
        mib = WEIGHTS_MIB + int(factor)
        safetensors(artifact / "model.safetensors", {"w": ("F32", (mib, 1 << 18), mib * MIB)})
    return scale(world.namespace, factor, rollout=rollout, source={"uri": f"file://{artifact}"})


async def test_what_a_pod_has_no_room_for_comes_in_a_new_pod_without_a_failed_request(
    limits: list[tuple[str, ...]], world: World, operator: OperatorProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("artifacts")
    world.node.prefixes = iter(limits)
    await world.apply(heavy(world, folder, 2))
    await world.until("Ready", "True")
    pods = world.node.uids()
    async with Asking(world) as asking:
        await world.apply(heavy(world, folder, 3))
        await world.until("Ready", "True")
        await eventually(lambda: not (pods & world.node.uids()), within_s=60)
        await eventually(lambda: asking.answers[-1:] == [3.0])
    assert asking.failures == []
    status = (await world.model())["status"]
    assert status["strategy"]["resolved"] == "Surge"
    assert "no room for both revisions in a pod" in status["strategy"]["reason"]
    assert "its weights take 253 MiB" in status["strategy"]["reason"]


async def test_in_place_it_is_refused_until_the_spec_allows_another_way(
    limits: list[tuple[str, ...]], world: World, operator: OperatorProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("artifacts")
    world.node.prefixes = iter(limits)
    await world.apply(heavy(world, folder, 2, strategy="InPlace"))
    await world.until("Ready", "True")
    async with Asking(world) as asking:
        await world.apply(heavy(world, folder, 3, strategy="InPlace"))
        message = await world.until("Progressing", "False", "InsufficientMemoryForOverlap")
        assert "set rollout.strategy to Auto or Surge" in message
        await world.until("UpToDate", "False", "RolledBack")
        assert set(asking.answers) == {2.0}
        await world.apply(heavy(world, folder, 3, strategy="Auto"))
        await world.until("Ready", "True")
        await eventually(lambda: asking.answers[-1:] == [3.0])
    assert asking.failures == []
