"""Who goes first where processes want a processor together: the front end, then workers that serve, then workers that
load beside them.

The front end needs little, and what it does late is late for everybody: answers, refusals, other models' requests.
Within a container a process's nice value counts. Outside, where the kernel groups processes by session (autogroups,
sched(7)), the session's counts, and each worker is a session of its own. Raising a nice value is free, lowering it
again is not: where that is not allowed a worker that loads is scheduled as SCHED_BATCH, which gives way to what wakes
up and may be left at will. All threads, since both are properties of a thread; later ones inherit them.
"""

import asyncio
import os
import re
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SERVING = 5
"""Nice value of a worker above this process's: a third of its share while both want a processor."""
LOADING = 15
"""The same while it loads beside what serves."""
MAX_NICE = 19
CAP_SYS_NICE = 23
_NICE_LIMIT_OF_ZERO = 20
"""RLIMIT_NICE that allows a nice value of 0 (setrlimit(2): the limit is 20 minus the value)."""
_AGAIN_S = 0.12
"""The kernel takes one autogroup's value a tenth of a second from who is not privileged."""
_TRIES = 25
_SESSION_NICE = re.compile(r"nice (-?\d+)")


class Priority:
    """Of one worker. Used from the event loop; no effect on a process that has ended."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._again: asyncio.TimerHandle | None = None

    def hold_back(self) -> None:
        """From now on the process runs behind what serves."""
        if can_lower_nice():
            self._set(LOADING, os.SCHED_OTHER)
        else:
            self._set(SERVING, os.SCHED_BATCH)
        self._set_session(LOADING)

    def let_go(self) -> None:
        """It serves: it runs behind this process, and nothing else."""
        self._set(SERVING, os.SCHED_OTHER)
        self._set_session(SERVING)

    def forget(self) -> None:
        """The process has ended."""
        if self._again is not None:
            self._again.cancel()

    def _set(self, above: int, scheduler: int) -> None:
        level = min(MAX_NICE, os.getpriority(os.PRIO_PROCESS, 0) + above)

        def change(thread: int) -> None:
            if os.sched_getscheduler(thread) != scheduler:
                os.sched_setscheduler(thread, scheduler, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, thread, level)

        _each_thread(self._pid, change)

    def _set_session(self, above: int, tries: int = _TRIES) -> None:
        """Again where the kernel asks for that, and until the process has a session of its own."""
        self.forget()
        with suppress(OSError):  # no such process, or no autogroups
            found = _SESSION_NICE.search(Path("/proc/self/autogroup").read_text(encoding="ascii"))
            level = min(MAX_NICE, above + (int(found[1]) if found else 0))
            try:
                if os.getsid(self._pid) == self._pid:
                    Path(f"/proc/{self._pid}/autogroup").write_text(str(level), encoding="ascii")
                    return
            except BlockingIOError:
                pass
            if tries:
                loop = asyncio.get_running_loop()
                self._again = loop.call_later(_AGAIN_S, self._set_session, above, tries - 1)


def can_lower_nice() -> bool:
    """Whether this process may give one of its children a nice value of 0 again."""
    if resource.getrlimit(resource.RLIMIT_NICE)[0] >= _NICE_LIMIT_OF_ZERO:
        return True
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_NICE & 1)
    return False


def _each_thread(pid: int, change: Callable[[int], None]) -> None:
    with suppress(OSError):  # the process, or one of its threads, has ended; or a sandbox does not let us: no harm
        for entry in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                change(int(entry.name))
