"""The arena's size, and the refusal to start where it cannot fit: before a byte of it is taken."""

from pathlib import Path

import pytest
from tests.runtime.cli.test_cgroup_memory import write
from tests.runtime.serving.processes import podium
from tests.runtime.serving.test_front_end_kills import resources

from podium.settings import Settings
from podium.telemetry.cgroup import MemoryState, memory_state
from podium.wiring import RESERVE_BYTES, StartError, arena_bytes

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("limit", "body", "expected"),
    [
        (100 * GIB, 64 * MIB, 128 * MIB),
        (GIB, 64 * MIB, GIB // 10),
        (200 * MIB, 64 * MIB, 32 * MIB),
        (100 * GIB, MIB, 32 * MIB),
    ],
)
def test_by_default_two_of_the_largest_bodies_within_bounds(limit: int, body: int, expected: int) -> None:
    assert arena_bytes(Settings(max_body_bytes=body), MemoryState(limit, 0), available=1000 * GIB) == expected


V2 = {"cgroup.controllers": "memory", "memory.max": f"{GIB}\n", "memory.stat": f"anon {300 * MIB}\nfile {GIB}\n"}
V1 = {
    "memory/memory.limit_in_bytes": f"{GIB}\n",
    "memory/memory.stat": f"total_rss {300 * MIB}\ntotal_cache {GIB}\n",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_what_does_not_fit_into_the_containers_memory_is_refused_with_the_way_out(
    tmp_path: Path, files: dict[str, str]
) -> None:
    state = memory_state(write(tmp_path, files), own=tmp_path / "none")
    fits = GIB - 300 * MIB - RESERVE_BYTES
    assert arena_bytes(Settings(arena_bytes=fits), state, available=1000 * GIB) == fits
    with pytest.raises(StartError, match=r"limits\.memory or lower sharedMemory\.arenaBytes") as refused:
        arena_bytes(Settings(arena_bytes=fits + 1), state, available=1000 * GIB)
    assert str(GIB) in str(refused.value)


def test_without_a_limit_the_machines_memory_is_one() -> None:
    with pytest.raises(StartError, match="this machine"):
        arena_bytes(Settings(arena_bytes=GIB), MemoryState(None, 0), available=GIB)


def test_the_process_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(resources(tmp_path))
    with podium(
        "serve", "-f", str(tmp_path / "models.yaml"), "--port", "0", PODIUM_ARENA_BYTES=str(1 << 50)
    ) as process:
        assert process.ends() == 1
    assert "PODIUM_ARENA_BYTES" in process.tail() or "sharedMemory.arenaBytes" in process.tail()
    assert "Traceback" not in process.tail()
