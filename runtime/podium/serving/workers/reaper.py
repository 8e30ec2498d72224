"""Collects orphans: as PID 1 or subreaper this process inherits what its workers leave behind.

A zombie child that nobody here started is collected once it has been seen by two looks in a row, so that code which
waits for its own children (subprocess) is not robbed of their status.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

from podium.telemetry.processes import ZOMBIE, children_of

LOOK_EVERY_S = 5.0


class Reaper:
    """Looks for zombies of unknown origin now and then."""

    def __init__(self, is_ours: Callable[[int], bool]) -> None:
        """`is_ours`: whether somebody waits for that pid."""
        self._is_ours = is_ours
        self._suspects: set[int] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> list[int]:
        """Collects what was a zombie at the last look, too; returns those pids. Cheap where there is no zombie."""
        if not _any_zombie():
            self._suspects = set()
            return []
        zombies = {pid for pid in zombie_children() if not self._is_ours(pid)}
        reaped = sorted(zombies & self._suspects)
        for pid in reaped:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._suspects = zombies - set(reaped)
        return reaped


def zombie_children() -> list[int]:
    """Pids of ended children whose status was not collected."""
    return [seen.pid for seen in children_of(os.getpid()) if seen.state == ZOMBIE]


def _any_zombie() -> bool:
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
