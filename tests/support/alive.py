"""Whether a process still runs."""

from pathlib import Path


def alive(pid: int) -> bool:
    """False also for one that has ended and that nobody has collected: who starts workers in its own process, as some
    tests do, adopts orphans from then on."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
