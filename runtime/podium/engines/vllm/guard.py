"""Ends vLLM's processes and removes its files with the worker that started them, however that ends.

vLLM's engine process is no child of the front end and does not watch its parent: where the front end is killed, the
kernel kills the worker and leaves the engine, with all its memory. The guard (podium.worker.guard) is a process of the
worker's session that waits for the worker's end. Where the front end lives, it may be quicker and end the guard too.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from podium.ipc.bootstrap import SPARED, guard_arguments

_PREFIX = "podium-vllm-"
_SOCKET_CHARS = 36
"""vLLM names each of its sockets by a UUID."""
_MAX_PATH_BYTES = 107
"""sun_path of Linux, less the NUL at its end."""
_SHORT = Path("/tmp")  # noqa: S108 - the folder made there is new, and this user's alone
_CACHE = "podium-cache-vllm-"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel keeps named semaphores
_MAPPED = re.compile(rf" (\d+)\s+{_SHARED_MEMORY}/sem\.")
"""A semaphore among a process's mappings. Its inode tells which: it was mapped under another name than it has now."""


def private_folder() -> Path:
    """A new directory for vLLM's sockets and caches; those of workers that are no more are removed. Raises OSError."""
    root = _root()
    for left in root.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX)
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{_PREFIX}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _root() -> Path:
    """The temporary directory, or /tmp where vLLM's sockets would have names there that the kernel does not take."""
    chosen = Path(tempfile.gettempdir())
    longest = len(os.fsencode(chosen / f"{_PREFIX}{os.getpid()}")) + 1 + _SOCKET_CHARS
    return chosen if longest <= _MAX_PATH_BYTES else _SHORT


def cache_folder(private: Path) -> Path:
    """Where vLLM keeps what it found out about a model's class: without it, each load imports vLLM once more.

    It outlives workers. What is not this user's alone is not used: compiled code may lie there.
    """
    folder = Path(tempfile.gettempdir()) / f"{_CACHE}{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    return private / "cache"


def start_guard(folder: Path) -> "subprocess.Popen[bytes] | None":
    """The guard of this process; None where it does not lead a session of its own (a tool run by hand)."""
    if os.getsid(0) != os.getpid():
        return None
    return subprocess.Popen(
        [sys.executable, *guard_arguments("", str(folder))],
        stdin=subprocess.DEVNULL,
        close_fds=True,
        env={**os.environ, SPARED[0]: SPARED[1]},
        cwd="/",
    )


def forget_semaphores() -> None:
    """Takes away the names of the semaphores that this session's processes hold, so that no death leaves one behind.

    Once vLLM is loaded nobody looks one up by its name any more.
    """
    held: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(process.name)) == os.getsid(0):
                held |= {int(inode) for inode in _MAPPED.findall((process / "maps").read_text())}
    for semaphore in _SHARED_MEMORY.glob("sem.mp-*"):
        with suppress(OSError):
            if semaphore.stat().st_ino in held:
                semaphore.unlink()
