"""What containers leave on a machine when their node stops: shim processes and mounts. Found by path, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from .base import ClusterError
from .shell import run, wait_for

# Fixed by the kubelet, by containerd and by CNI, whatever their settings say.
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
_CONTAINER_LOGS = Path("/var/log/containers")
_CNI_RESULTS = Path("/var/lib/cni/results")


def kill_shims(socket: Path, state: Path) -> None:
    """End the shims of the containerd that listened on `socket`, and the containers they hold.

    `state` is that containerd's state folder, which says where its shims listen.
    """
    listening = [
        file.read_text().removeprefix("unix://") for file in state.glob("io.containerd.runtime.v2.task/*/*/address")
    ]

    def left() -> str | None:
        pids = [pid for pid in _processes() if str(socket) in _arguments(pid)]
        for pid in pids:
            for victim in (*_children(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        return f"shims {pids}" if pids else None

    wait_for("end of container shims", left, timeout=15)
    for address in listening:
        Path(address).unlink(missing_ok=True)


def remove_fixed_places(pod_logs: Path, networks: Sequence[str]) -> None:
    """Remove what nodes wrote outside their own folders: links to `pod_logs`, results of CNI `networks`, sockets."""
    for link in _CONTAINER_LOGS.glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(pod_logs):
            link.unlink()
    for result in _CNI_RESULTS.glob("*"):
        container = result.name.split("-")[-2] if "-" in result.name else ""
        if any(
            (_CNI_RESULTS / f"{network}-{container}-eth0").exists() for network in networks
        ) and result.name.endswith("-lo"):
            result.unlink()
    for network in networks:
        for result in _CNI_RESULTS.glob(f"{network}-*"):
            result.unlink()
    for name in ("kubelet.sock", "kubelet_internal_checkpoint"):
        (_DEVICE_PLUGINS / name).unlink(missing_ok=True)
    for folder in (_DEVICE_PLUGINS, _DEVICE_PLUGINS.parent, _CONTAINER_LOGS, _CNI_RESULTS, _CNI_RESULTS.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()


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
