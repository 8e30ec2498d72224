"""What containers leave on a machine when their node stops: shim processes and mounts. Found by path, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from .base import ClusterError
from .shell import run, wait_for


def kill_shims(socket: Path) -> None:
    """End the shims of the containerd that listened on `socket`, and the containers they hold."""

    def left() -> str | None:
        pids = [pid for pid in _processes() if str(socket) in _arguments(pid)]
        for pid in pids:
            for victim in (*_children(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        return f"shims {pids}" if pids else None

    wait_for("end of container shims", left, timeout=15)


def unmount_below(folder: Path) -> None:
    """Unmount everything mounted at or below `folder`, the deepest first."""
    for _ in range(3):
        mounts = sorted(_mounts(folder), key=len, reverse=True)
        if not mounts:
            return
        for mount in mounts:
            with contextlib.suppress(ClusterError):
                run(["umount", "--lazy", mount], timeout=30)
    left = _mounts(folder)
    if left:
        raise ClusterError(f"still mounted: {' '.join(left)}")


def _mounts(folder: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    plain = [point.replace("\\040", " ") for point in points]
    return [point for point in plain if Path(point).is_relative_to(folder)]


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _arguments(pid: int) -> list[str]:
    """The command line of a shim, empty for any other process."""
    try:
        parts = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    return parts if "containerd-shim" in parts[0] else []


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
