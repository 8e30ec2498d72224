"""How many threads of this process can run at once."""

import os
from math import ceil
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_units(root: Path = CGROUP) -> int:
    """CPUs that this process may use: its affinity, or less where the container's quota is less. At least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(root)
    return max(1, allowed if quota is None else min(allowed, ceil(quota)))


def _quota(root: Path) -> float | None:
    """CPUs of the cgroup's quota, version 2 or 1; None where there is none."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not (limit.isdigit() and period.isdigit() and int(period)):
        return None  # "max", or -1
    return int(limit) / int(period)
