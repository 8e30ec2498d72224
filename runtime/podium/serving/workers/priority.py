"""Holds back a process that loads beside what serves, in a way that can be taken back without privilege.

Raising a nice value is free, lowering it again is not: only where that is allowed is the process niced. Elsewhere it is
scheduled as SCHED_BATCH, which gives way to what wakes up, and may be left at will. All threads, since both are
properties of a thread; later ones inherit them.
"""

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NICENESS = 10
"""Above that of this process."""
MAX_NICE = 19
CAP_SYS_NICE = 23
_NICE_LIMIT_OF_ZERO = 20
"""RLIMIT_NICE that allows a nice value of 0 (setrlimit(2): the limit is 20 minus the value)."""


def hold_back(pid: int) -> None:
    """From now on the process runs behind others. No effect on one that has ended."""
    if can_lower_nice():
        behind = min(MAX_NICE, _own_nice() + NICENESS)
        _each_thread(pid, lambda thread: os.setpriority(os.PRIO_PROCESS, thread, behind))
    else:
        _each_thread(pid, lambda thread: os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0)))


def let_go(pid: int) -> None:
    """Takes `hold_back` back."""
    if can_lower_nice():
        level = _own_nice()
        _each_thread(pid, lambda thread: os.setpriority(os.PRIO_PROCESS, thread, level))
    else:
        _each_thread(pid, lambda thread: os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0)))


def can_lower_nice() -> bool:
    """Whether this process may give one of its children a nice value of 0 again."""
    if resource.getrlimit(resource.RLIMIT_NICE)[0] >= _NICE_LIMIT_OF_ZERO:
        return True
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_NICE & 1)
    return False


def _own_nice() -> int:
    """What this process itself was given: its workers run beside it, not before it."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def _each_thread(pid: int, change: Callable[[int], None]) -> None:
    with suppress(OSError):  # the process, or one of its threads, has ended; or a sandbox does not let us: no harm
        for entry in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                change(int(entry.name))
