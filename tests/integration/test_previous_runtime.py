"""Today's operator over pods of an older release's runtime, each real: swapped in place, and replaced by a surge."""

import subprocess
from pathlib import Path

import pytest
from tests.support.operator_process import OperatorProcess
from tests.support.waiting import eventually
from tests.support.world import Asking, World, scale

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
COMMITS_AGO = 100
"""There is no release yet: what was on main so many commits ago stands for one."""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of the runtime and the contracts as they were."""
    revisions = _git("rev-list", "--first-parent", f"--max-count={COMMITS_AGO + 1}", "HEAD").decode().split()
    if len(revisions) <= COMMITS_AGO:
        pytest.skip(f"this clone has only {len(revisions)} commits of history: git fetch --unshallow")
    folder = tmp_path / "release"
    folder.mkdir()
    archive = _git("archive", revisions[-1], "crds", "runtime")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True, timeout=60)
    return folder


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout


async def test_pods_of_an_older_runtime_are_swapped_in_place_and_by_surge_without_a_failed_request(
    world: World, operator: OperatorProcess, release: Path
) -> None:
    world.node.release = release
    await world.apply(scale(world.namespace, 2, replicas=2))
    await world.until("Ready", "True")
    pods = world.node.uids()
    for pod in world.node.pods.values():
        assert pod.process is not None
        environment = Path(f"/proc/{pod.process.pid}/environ").read_bytes()  # noqa: ASYNC240 - of /proc
        assert str(release).encode() in environment, "the older runtime is not what runs"
    async with Asking(world) as asking:
        await world.apply(scale(world.namespace, 3, replicas=2))
        await world.until("Ready", "True")
        await eventually(lambda: asking.answers[-1:] == [3.0])
        assert world.node.uids() == pods
        world.node.release = None
        await world.apply(scale(world.namespace, 4, replicas=2, env=[{"name": "COLOUR", "value": "blue"}]))
        await world.until("Ready", "True")
        await eventually(lambda: not (pods & world.node.uids()), within_s=90)
        await eventually(lambda: asking.answers[-1:] == [4.0])
    assert asking.failures == []
    assert asking.fewest_ready >= 2
    assert set(asking.answers) == {2.0, 3.0, 4.0}
    assert all(len(answers) == 1 for answers in asking.by_revision.values())
