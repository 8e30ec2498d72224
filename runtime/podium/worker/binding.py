"""Ties a worker's life to its front end's, and to no other process's."""

import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
REPARENT_TIMEOUT_MS = 5000
_LIBC = ctypes.CDLL(None, use_errno=True)


def bind_to_parent(parent_pid: int) -> int:
    """From now on this process is killed when `parent_pid` ends. Returns a pidfd of it, readable at its end.

    And all that this process starts stays below it, daemons too, so that the front end finds it once this one is dead.
    Call after a double fork or a spawn. Exits the process where the parent is gone already.
    """
    _await_adoption(parent_pid)
    try:
        parent_fd = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        sys.exit("the front end is gone")
    if _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    if os.getppid() != parent_pid:
        # It ended between the two calls: the signal was armed too late and will not come.
        sys.exit("the front end is gone")
    return parent_fd


def _await_adoption(parent_pid: int) -> None:
    """Waits until the middle process of the double fork has ended: the kernel re-parents before it signals the end."""
    middle = os.getppid()
    if middle == parent_pid:
        return
    try:
        fd = os.pidfd_open(middle)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if os.getppid() == middle:
            poller.poll(REPARENT_TIMEOUT_MS)
    finally:
        os.close(fd)


def thread_count() -> int:
    """Threads of this process, as the kernel counts them."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - no pathlib needed for one read
        for line in status:
            if line.startswith("Threads:"):
                return int(line.split()[1])
    raise OSError("/proc/self/status has no thread count")
