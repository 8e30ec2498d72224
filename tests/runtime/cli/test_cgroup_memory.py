"""Memory limits from cgroup v1 and v2 files."""

from pathlib import Path

from podium.telemetry.cgroup import memory_state


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_v2_counts_what_cannot_be_dropped(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "cgroup.controllers": "memory",
            "memory.max": "1000\n",
            "memory.stat": "anon 100\nfile 500\nshmem 20\nunevictable 3\n",
        },
    )
    state = memory_state(root, own=tmp_path / "none")
    assert (state.limit_bytes, state.unreclaimable_bytes, state.headroom_bytes) == (1000, 123, 877)


def test_v2_without_a_limit_has_no_headroom(tmp_path: Path) -> None:
    root = write(tmp_path, {"cgroup.controllers": "", "memory.max": "max\n", "memory.stat": "anon 1\n"})
    assert memory_state(root, own=tmp_path / "none").headroom_bytes is None


def test_v1_reads_its_own_group_where_it_is_mounted(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/pod/memory.limit_in_bytes": "2000",
            "memory/pod/memory.stat": "total_rss 100\ntotal_shmem 10\ntotal_unevictable 0\n",
        },
    )
    own = write(tmp_path, {"own": "3:cpu:/other\n2:memory:/pod\n"}) / "own"
    assert memory_state(root, own).headroom_bytes == 1890
    own.write_text("2:memory:/elsewhere\n")
    assert memory_state(root, own).limit_bytes is None
