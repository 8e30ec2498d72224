"""The guard: ends what models and engines have started once who started it is gone, however it went. Run as a file.

A worker is killed by the kernel when its front end ends, but what the model's own code has started is not: where no
container ends with the front end (`podium serve` on a laptop), it would live on. So one small process stays behind the
front end: it is told of every worker's birth and end, and once the front end is gone it kills

- whoever is in the session of a worker that was alive then: each worker is a session of its own;
- whoever has this front end's mark in the environment that it was started with, whatever session it gave itself.

What has neither is not found: a process that was forked without an exec and has left the worker's session.

Likewise a worker whose engine has processes and files of its own leaves one behind, in its session: once the worker is
gone that one kills whoever is left there and removes the files. The front end's guard spares it.
Only the standard library, one thread.
"""

import ctypes
import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

CONTROL_FD = 3
MAX_LINE_BYTES = 32
PATIENCE_S = 10.0
"""The kernel ends a killed process at once, unless it is stuck in a driver."""
LOOK_EVERY_S = 0.02
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arguments: the pid of who is watched; the front end's mark as an environment has it, or nothing; what the
    environment of an engine's guard has, which ends by itself; and of such a guard the folder with the files."""
    watched, mark, spared = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3].encode()
    folder = sys.argv[4] if len(sys.argv) > 4 else None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    be_silent()
    # Whoever stops all of a family, and kills its head then, has stopped the guard too.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
    gone = opened(watched)
    if folder is not None:
        if gone is not None and os.getppid() == watched:  # else the pid is another one's by now
            select.select([gone], [], [])
        end_all({os.getsid(0)}, mark, spared)
        shutil.rmtree(folder, ignore_errors=True)
    elif gone is not None:
        end_all(follow(CONTROL_FD, gone), mark, spared)


def opened(watched: int) -> int | None:
    """What becomes readable once that process is gone; None where it is already."""
    with suppress(ProcessLookupError):
        return os.pidfd_open(watched)
    return None


def be_silent() -> None:
    """Lets go of the front end's output: who reads it waits for its end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nothing, output)
    os.close(nothing)


def follow(control: int, gone: int) -> set[int]:
    """Reads births (`+pid`) and ends (`-pid`), a line each, until the front end is gone. Returns who was alive."""
    alive: set[int] = set()
    pending = b""
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(gone, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if control in ready:
            piece = os.read(control, 4096)
            if not piece:
                poller.unregister(control)  # what it said is complete; now only its end is waited for
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                (alive.add if line[:1] == b"+" else alive.discard)(int(line[1:]))
            if len(pending) > MAX_LINE_BYTES:
                sys.exit("the front end said what is no line")
        elif gone in ready:
            return alive


def end_all(sessions: set[int], mark: bytes, spared: bytes) -> None:
    """Kills until nobody is left, since who is killed late may have started others meanwhile."""
    until = time.monotonic() + PATIENCE_S
    while (left := members(sessions, mark, spared)) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_EVERY_S)


def members(sessions: set[int], mark: bytes, spared: bytes) -> list[int]:
    """Living processes of these sessions, or with that mark; this one is none, nor are those to be spared."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or is another user's
            state, _, _, session = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
            if state in "ZX":
                continue
            environment = (entry / "environ").read_bytes().split(b"\0")
            is_marked = bool(mark) and mark in environment
            if (int(session) in sessions or is_marked) and spared not in environment:
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
