"""The process table as /proc shows it. Blocking, but only small reads of a virtual file each."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
ZOMBIE = "Z"


@dataclass(frozen=True, slots=True)
class Seen:
    """One process at the moment of a look."""

    pid: int
    parent: int
    session: int
    state: str


def process_table() -> dict[int, Seen]:
    """Every process that this one can see, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended since
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                state, parent, _, session = stat.rpartition(")")[2].split()[:4]
                found[int(entry.name)] = Seen(int(entry.name), int(parent), int(session), state)
    return found


def children_of(pid: int) -> list[Seen]:
    """Direct children, ended ones included."""
    return [seen for seen in process_table().values() if seen.parent == pid]


def tree_of(root: int) -> list[int]:
    """`root` and all its descendants, parents first."""
    table = process_table()
    found = [root]
    for pid in found:
        found += [seen.pid for seen in table.values() if seen.parent == pid]
    return found


def anonymous_bytes(pid: int) -> int:
    """Resident anonymous memory of one process, pages still shared with its parent included; 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * KIB
    return 0


def anonymous_bytes_of_tree(root: int) -> int:
    """The sum over a process and its descendants."""
    return sum(anonymous_bytes(pid) for pid in tree_of(root))


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What the machine can give without swapping. Raises OSError."""
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * KIB
    raise OSError(f"{meminfo} does not say how much memory is available")
