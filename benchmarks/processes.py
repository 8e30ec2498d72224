"""Memory of a process tree, from /proc, in bytes."""

from dataclasses import dataclass
from pathlib import Path

KIB = 1024
ARENA = "/memfd:podium"


@dataclass(frozen=True, slots=True)
class Memory:
    """One process. The arena is counted apart: its size is a setting."""

    pid: int
    command: str
    pss: int
    """Proportional set size without the arena."""
    private: int
    """Pages of this process alone, without the arena."""
    arena_pss: int


def tree(root: int) -> list[int]:
    """`root` and all its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue  # it has ended since
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory(pid: int) -> Memory:
    """Memory of that process, mapping by mapping."""
    pss = private = arena = 0
    in_arena = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, rest = line.partition(":")
        if "-" in key.split(" ", 1)[0] and not rest.rstrip().endswith(" kB"):
            in_arena = ARENA in line
            continue
        if key == "Pss" and rest.endswith("kB"):
            amount = int(rest.split()[0]) * KIB
            arena, pss = (arena + amount, pss) if in_arena else (arena, pss + amount)
        elif key in ("Private_Clean", "Private_Dirty") and not in_arena:
            private += int(rest.split()[0]) * KIB
    command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()
    return Memory(pid, command, pss, private, arena)


def memory_of_tree(root: int) -> list[Memory]:
    """Memory of `root` and all its descendants."""
    return [memory(pid) for pid in tree(root)]
