"""Child processes as the event loop sees them: spawned with named descriptors, their end told by a pidfd."""

import asyncio
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from podium.telemetry.processes import children_of, tree_of

PR_SET_CHILD_SUBREAPER = 36
_FIRST_FREE_FD = 64
"""Sources are moved above this before they get their numbers, so that none is overwritten on the way."""
END_TIMEOUT_S = 10.0
"""The kernel ends a killed process at once, unless it is stuck in a driver."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
"""ONNX Runtime's Linux builds report models and machines by default, decided when the library is imported; any model
may import it, not only those of its engine."""


_awaited: set[int] = set()
"""Children whose end somebody here waits for. A fact of the process, like the children themselves."""


def is_awaited(pid: int) -> bool:
    """Whether a ChildProcess of this process stands for that pid."""
    return pid in _awaited


class ChildProcess:
    """A child of this process, its own session. Its exit status is collected here and nowhere else."""

    def __init__(self, pid: int) -> None:
        """Takes over a child that nobody waits for. Needs a running event loop."""
        self.pid = pid
        _awaited.add(pid)
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        """Exit status, negative for a signal; None where somebody else collected it."""
        self._loop.add_reader(self._pidfd, self._collect)

    @property
    def alive(self) -> bool:
        """False from the moment its end was seen."""
        return not self.exited.done()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signals the process, and with SIGKILL all of its process group. No effect on a dead one."""
        if not self.alive:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)
        if number == signal.SIGKILL:
            self._kill_group()

    def _collect(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._kill_group()  # before the pid is given back: its number still is the group's
        status: int | None = None
        with suppress(ChildProcessError):
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            if result is not None:
                status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        os.close(self._pidfd)
        _awaited.discard(self.pid)
        self.exited.set_result(status)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


async def end_strays() -> list[int]:
    """Kills what ended workers left behind, and what that left behind in turn; returns the pids, all gone by then.

    A worker is the subreaper of all that it starts, whatever session or parent that has given itself. So a child of
    this process in another session than ours, for which nobody waits, was handed up by a worker's death, or is a worker
    whose fork server died before it named it. Not to be called while a fork is under way. Bounded by END_TIMEOUT_S.
    """
    ended: list[int] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S):
            while strays := _strays():
                processes = [ChildProcess(pid) for pid in strays]
                for process in processes:
                    process.kill()
                await asyncio.wait([process.exited for process in processes])
                ended += strays
    return ended


def _strays() -> list[int]:
    own = os.getsid(0)
    return [seen.pid for seen in children_of(os.getpid()) if seen.session != own and not is_awaited(seen.pid)]


def spawn(arguments: Sequence[str], fds: Mapping[int, int], environment: Mapping[str, str]) -> ChildProcess:
    """`spawn_pid`, its end waited for."""
    return ChildProcess(spawn_pid(arguments, fds, environment))


def spawn_pid(arguments: Sequence[str], fds: Mapping[int, int], environment: Mapping[str, str]) -> int:
    """Starts this interpreter with `arguments`; `fds`: number in the child → descriptor here, which stays open here.

    Isolated from the working directory (-P). Standard input is empty; output and errors go where this process's go.
    """
    moved = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD) for number, fd in fds.items()}
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        *((os.POSIX_SPAWN_DUP2, source, number) for number, source in moved.items()),
    ]
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", *arguments],
            {**os.environ, **environment},
            file_actions=actions,
            setsid=True,
        )
    finally:
        for fd in moved.values():
            os.close(fd)


def thread_environment(threads: int) -> dict[str, str]:
    """Variables that hold numeric libraries to `threads` threads from their import on, keep what a model imports from
    reporting to its vendor, and unbuffer output."""
    return {**dict.fromkeys(THREAD_VARIABLES, str(threads)), **NO_TELEMETRY, "PYTHONUNBUFFERED": "1"}


def become_subreaper() -> None:
    """Makes this process the parent of descendants whose own parent ends, as PID 1 is already."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def described_exit(status: int | None) -> str:
    """`status 3`, `SIGKILL`: how a process ended, in words."""
    if status is None:
        return "unknown status"
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def described_death(status: int | None) -> str:
    """As `described_exit`, for a model that had been loaded: with the likeliest cause, where there is one.

    That it wrote to an input is not known: other faults of native code end the same way.
    """
    words = described_exit(status)
    if not is_fault(status):
        return words
    return (
        f"{words} (native code writing to an input ends so, as inputs are mapped read-only: x = x / 255, not x /= 255)"
    )


def is_fault(status: int | None) -> bool:
    """Whether a process ended as one does that writes where it may not."""
    return status == -signal.SIGSEGV


def memory_bytes_of_tree(root: int) -> tuple[int, int]:
    """Private bytes of a process and its descendants together, and shared ones of the one that has most. Blocking.

    Children have the libraries in common with their parent, so what they share is counted once.
    """
    measured = [memory_bytes(pid) for pid in tree_of(root)]
    return sum(private for private, _ in measured), max((shared for _, shared in measured), default=0)


def memory_bytes(pid: int) -> tuple[int, int]:
    """Private and shared resident bytes of a process; zeros where it is gone. Blocking: milliseconds if large."""
    private = shared = 0
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        key, _, rest = line.partition(":")
        if key.startswith("Private_"):
            private += int(rest.split()[0]) * 1024
        elif key.startswith("Shared_"):
            shared += int(rest.split()[0]) * 1024
    return private, shared
