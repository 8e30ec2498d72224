"""One pod's resources for all tests of a module, audited after each test: no lease, no byte, no process left."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.runtime.worker.models import GroupMaker
from tests.support.waiting import eventually

from podium.serving.workers.pod import PodOptions, PodResources

ARENA_BYTES = 16 << 20


def children() -> set[int]:
    """Live children of this process."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(os.getpid()) and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pod(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PodResources]:
    """Shared by the module's tests; debug arena."""
    pod = await PodResources.open(ARENA_BYTES, tmp_path_factory.mktemp("run"), PodOptions(debug_arena=True))
    yield pod
    await pod.close()


@pytest_asyncio.fixture(loop_scope="module")
async def groups(pod: PodResources, tmp_path: Path) -> AsyncIterator[GroupMaker]:
    """Starts worker groups from model code and stops them; then the arena must be as it was."""
    before = children()
    maker = GroupMaker(pod, tmp_path)
    yield maker
    await maker.stop()
    pod.arena.ledger.check_integrity()
    assert pod.arena.stats().slots == 0, "leases are left"
    pids = (pod.fork_servers.pid(kind) for kind in pod.fork_servers.kinds())
    servers = {pid for pid in pids if pid is not None}
    await eventually(lambda: children() <= before | servers, within_s=10, what="no worker is left")
