"""Long-running programs of a cluster: started detached, recorded on disk, stopped by process id and nothing else.

A record holds the id and the kernel's start time of the process, so that an id the kernel has given to
another process since is never signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .base import ClusterError
from .shell import wait_for


@dataclass(frozen=True)
class Daemon:
    """One started program."""

    name: str
    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return start_time(self.pid) == self.started


def start_time(pid: int) -> str | None:
    """The kernel's start time of a process in clock ticks, or None where none that still runs has that id."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


class Daemons:
    """The programs recorded in one folder."""

    def __init__(self, *, records: Path, logs: Path) -> None:
        """`records`: who runs; `logs`: what they say."""
        self._records = records
        self._logs = logs

    def start(self, name: str, argv: Sequence[str | os.PathLike[str]], *, env: dict[str, str] | None = None) -> Daemon:
        """Start a program in a session of its own, with its output in `NAME.log`."""
        self._records.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [os.fspath(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        daemon = Daemon(name, process.pid, start_time(process.pid) or "")
        (self._records / f"{name}.json").write_text(json.dumps({"pid": daemon.pid, "started": daemon.started}))
        # The program outlives this interpreter; once it has exited, poll() lets the kernel drop the entry.
        _children[process.pid] = process
        return daemon

    def log(self, name: str) -> Path:
        """Where the output of `name` goes."""
        return self._logs / f"{name}.log"

    def tail(self, name: str, lines: int = 15) -> str:
        """The end of a program's log, for an error message."""
        try:
            text = self.log(name).read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    def recorded(self) -> list[Daemon]:
        """Every program started from this folder and not yet stopped, in order of start."""
        found = []
        for file in sorted(self._records.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            record = json.loads(file.read_text())
            _reap(record["pid"])
            found.append(Daemon(file.stem, record["pid"], record["started"]))
        return found

    def running(self, name: str) -> bool:
        """Whether the recorded program of that name is alive."""
        return any(daemon.alive for daemon in self.recorded() if daemon.name == name)

    def check(self, name: str) -> None:
        """Raise with the end of its log if the program has exited."""
        if not self.running(name):
            raise ClusterError(f"{name} exited; the end of {self.log(name)}:\n{self.tail(name)}")

    def stop(self, name: str, *, grace: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `grace`; returns once it is gone, at once where it is not running."""
        for daemon in self.recorded():
            if daemon.name == name:
                _stop(daemon, grace)
                (self._records / f"{name}.json").unlink(missing_ok=True)

    def stop_all(self, *, grace: float = 10.0) -> None:
        """Stop every recorded program, the last started first."""
        for daemon in reversed(self.recorded()):
            self.stop(daemon.name, grace=grace)


_children: dict[int, subprocess.Popen[bytes]] = {}


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]


def _stop(daemon: Daemon, grace: float) -> None:
    def gone() -> str | None:
        _reap(daemon.pid)
        return f"{daemon.name} (process {daemon.pid}) runs" if daemon.alive else None

    for sig, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        if gone() is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon.pid, sig)
        try:
            wait_for(f"stop of {daemon.name}", gone, timeout=patience, every=0.02)
        except ClusterError:
            if sig == signal.SIGKILL:
                raise
