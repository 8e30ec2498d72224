"""Memory limit and use of this container, from cgroup v2 or v1. Blocking, but only small reads of a virtual file."""

from dataclasses import dataclass
from pathlib import Path

NO_LIMIT_BYTES = 1 << 60
"""cgroup v1 writes a huge number where v2 writes `max`."""


@dataclass(frozen=True, slots=True)
class MemoryState:
    """What the kernel says now."""

    limit_bytes: int | None
    """None: no limit below the machine's memory."""
    unreclaimable_bytes: int
    """anon + shmem + unevictable: what the kernel cannot drop under pressure."""

    @property
    def headroom_bytes(self) -> int | None:
        """What can still be taken before the kernel kills; None without a limit."""
        return None if self.limit_bytes is None else max(0, self.limit_bytes - self.unreclaimable_bytes)


def memory_state(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> MemoryState:
    """Memory state of this process's cgroup. A file that is not there counts as no limit and no use."""
    if (root / "cgroup.controllers").exists():
        folder = _first_with("memory.max", root / _own_path(own, "").lstrip("/"), root)
        limit = _number(folder / "memory.max")
        stat = _stat(folder / "memory.stat")
        used = stat.get("anon", 0) + stat.get("shmem", 0) + stat.get("unevictable", 0)
        return MemoryState(limit, used)
    base = root / "memory"
    folder = _first_with("memory.limit_in_bytes", base / _own_path(own, "memory").lstrip("/"), base)
    limit = _number(folder / "memory.limit_in_bytes")
    stat = _stat(folder / "memory.stat")
    used = stat.get("total_rss", 0) + stat.get("total_shmem", 0) + stat.get("total_unevictable", 0)
    return MemoryState(None if limit is None or limit >= NO_LIMIT_BYTES else limit, used)


def _own_path(own: Path, controller: str) -> str:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return "/"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"


def _first_with(name: str, *folders: Path) -> Path:
    return next((folder for folder in folders if (folder / name).exists()), folders[-1])


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return None if text == "max" else int(text)


def _stat(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.isdigit()}
