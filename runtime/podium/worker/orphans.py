"""Collects what the model's own children left to this process, which is the subreaper of all that it starts.

Nothing tells an adopted child from one whose status the model still wants, so zombies are left alone up to
MAX_ZOMBIES: more than that nobody is waiting for, and each one costs the container a pid.
"""

import os
from contextlib import suppress

from podium.telemetry.processes import ZOMBIE, children_of

MAX_ZOMBIES = 32


def collect_orphans() -> list[int]:
    """Collects all but the youngest zombies; returns those pids. One system call where there is none."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return []
    except ChildProcessError:
        return []
    zombies = sorted(seen.pid for seen in children_of(os.getpid()) if seen.state == ZOMBIE)
    surplus = zombies[:-MAX_ZOMBIES]
    for pid in surplus:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return surplus
