"""The cgroup of each node, in whichever version of cgroups the machine has."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from .shell import wait_for

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpuset", "cpu", "memory", "pids", "io", "hugetlb")


def _hierarchies() -> list[Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink()]


def create(name: str) -> None:
    """Make cgroup `name` wherever the kubelet looks for it."""
    for hierarchy in _hierarchies():
        group = hierarchy / name.strip("/")
        _delegate(hierarchy)
        group.mkdir(exist_ok=True)
        _delegate(group)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # A new cpuset of version 1 takes no process until it has been given processors and memory.
            if (group / setting).exists() and (hierarchy / "cpuset.cpu_exclusive").exists():
                (group / setting).write_text((hierarchy / setting).read_text())


def remove(name: str) -> None:
    """Kill what is left in cgroup `name` and remove it with everything below. Does nothing where there is none."""
    for hierarchy in _hierarchies():
        group = hierarchy / name.strip("/")
        if not group.is_dir():
            continue

        def empty(group: Path = group) -> str | None:
            pids = [pid for procs in group.rglob("cgroup.procs") for pid in _read(procs).split()]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            return f"processes {pids}" if pids else None

        wait_for(f"{group} empty", empty, timeout=15)
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(FileNotFoundError):
                Path(folder).rmdir()


def _delegate(group: Path) -> None:
    switches = group / "cgroup.subtree_control"
    if not switches.exists():
        return
    for controller in _CONTROLLERS:
        with contextlib.suppress(OSError):
            switches.write_text(f"+{controller}")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
