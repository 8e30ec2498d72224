"""A load that takes more memory than the pod has left fails and says why, and what serves is not touched."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.worker.models import GroupMaker, ask, column

from podium.errors import WorkerLoadError
from podium.serving.workers.memory import LEAST_BYTES, RESERVE_BYTES, load_budget
from podium.telemetry.cgroup import MemoryState
from podium.worker.limits import held_to, is_out_of_memory
from podium_crds.reasons import Reason

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
WITHOUT_BOUND = """
    class Model:
        def load(self, ctx):
            self.kept = []
            while True:
                self.kept.append(b"x" * (8 << 20))
        def infer(self, inputs):
            return {"y": inputs["x"]}
"""
AT_ONCE = """
    class Model:
        def load(self, ctx):
            self.kept = bytearray(8 << 30)
        def infer(self, inputs):
            return {"y": inputs["x"]}
"""
IN_A_CHILD = """
    import subprocess
    import sys
    import time
    class Model:
        def load(self, ctx):
            hog = "import resource, time; resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)"
            hog += "; kept = b'x' * (256 << 20); time.sleep(600)"
            self.child = subprocess.Popen([sys.executable, "-c", hog])
            time.sleep(600)
        def infer(self, inputs):
            return {"y": inputs["x"]}
"""
WITH_A_CHILD = """
    import subprocess
    import sys
    class Model:
        def load(self, ctx):
            hold = "kept = b'x' * (100 << 20); print('held', flush=True); import time; time.sleep(600)"
            self.child = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
            self.child.stdout.readline()
        def infer(self, inputs):
            return {"y": inputs["x"]}
        def unload(self):
            self.child.kill()
"""
LARGE_WHEN_LOADED = """
    class Model:
        def infer(self, inputs):
            kept = b"x" * (300 << 20)
            return {"y": inputs["x"] * len(kept) / (300 << 20)}
"""


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> int:
    """Every load may take 48 MiB."""
    monkeypatch.setattr("podium.serving.workers.supervisor.load_budget", lambda sharers: 48 * MIB)
    return 48 * MIB


async def test_a_load_without_bound_is_refused_and_what_serves_stays(groups: GroupMaker, small_budget: int) -> None:
    serving = await groups.start()
    pids = serving.stats().pids
    with pytest.raises(WorkerLoadError, match=r"48 MiB.*raise resources\.limits\.memory") as failed:
        await groups.start(WITHOUT_BOUND)
    assert failed.value.reason is Reason.LOAD_FAILED
    np.testing.assert_array_equal(await ask(serving, column(1)), column(2))
    assert serving.stats().pids == pids


async def test_a_single_allocation_above_it_fails_where_it_is_made(groups: GroupMaker, small_budget: int) -> None:
    with pytest.raises(WorkerLoadError, match=r"bytearray\(8 << 30\)[^$]*MemoryError[^$]*more than 48 MiB") as failed:
        await groups.start(AT_ONCE)
    assert failed.value.exit_code == 1


async def test_a_child_of_the_model_that_lifts_its_limit_is_seen_and_ended(
    groups: GroupMaker, small_budget: int
) -> None:
    with pytest.raises(WorkerLoadError, match=r"MiB of private memory.*raise resources\.limits\.memory"):
        await groups.start(IN_A_CHILD)


async def test_what_a_model_holds_in_its_children_counts_as_its_own(groups: GroupMaker) -> None:
    group = await groups.start(WITH_A_CHILD)
    assert group.stats().private_bytes > 100 * MIB


async def test_the_limit_ends_with_the_load(groups: GroupMaker, small_budget: int) -> None:
    group = await groups.start(LARGE_WHEN_LOADED)
    np.testing.assert_array_equal(await ask(group, column(3)), column(3))


async def test_mapped_weights_do_not_count_against_it(tmp_path: Path) -> None:
    weights = tmp_path / "weights.npy"
    np.save(weights, np.zeros(100 * MIB, np.uint8))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with held_to(16 * MIB, tmp_path):
        mapped = np.load(weights, mmap_mode="c")
        assert not mapped[-1]
        with pytest.raises(MemoryError) as refused:
            np.ones(400 * MIB, np.uint8)
    assert is_out_of_memory(refused.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


async def test_the_budget_is_what_the_container_has_left_shared_by_those_that_load() -> None:
    state = MemoryState(limit_bytes=1000 * MIB, unreclaimable_bytes=400 * MIB)
    assert load_budget(1, state, 10_000 * MIB) == 600 * MIB - RESERVE_BYTES
    assert load_budget(4, state, 10_000 * MIB) == (600 * MIB - RESERVE_BYTES) // 4
    assert load_budget(1, state, 300 * MIB) == 300 * MIB - RESERVE_BYTES, (
        "the machine has less than the container may take"
    )
    assert load_budget(1, MemoryState(None, 0), 500 * MIB) == 500 * MIB - RESERVE_BYTES
    assert load_budget(1, MemoryState(1000 * MIB, 990 * MIB), 500 * MIB) == LEAST_BYTES


async def test_the_budget_of_this_machine_can_be_told() -> None:
    assert LEAST_BYTES <= load_budget(1) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
