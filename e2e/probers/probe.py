"""The handle that a test holds on a running prober."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from .ledger import Entry, Ledger, parse_line
from .load import Load

_ROOT = Path(__file__).resolve().parents[2]


class ProbeError(RuntimeError):
    """The sending process did not do its work, so nothing can be concluded."""


class Probe:
    """A prober in a process of its own, sending between `start` and `stop`.

    `command` is what runs `e2e.probers` with the load appended; the default runs it on this machine.
    """

    def __init__(self, load: Load, command: Sequence[str] = ()) -> None:
        self._load = load
        self._command = list(command) or [sys.executable, "-m", "e2e.probers"]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()
        self._ledger = Ledger()
        self._broken: str | None = None

    def start(self) -> Self:
        """Begin to send."""
        self._process = subprocess.Popen(
            [*self._command, json.dumps(asdict(self._load))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def so_far(self) -> Ledger:
        """The entries known now."""
        with self._changed:
            return Ledger(list(self._ledger.entries), self._ledger.summary)

    def wait(self, holds: Callable[[list[Entry]], bool], *, what: str, timeout: float) -> None:
        """Return once `holds` is true of the entries known; raise TimeoutError with the books so far."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not holds(self._ledger.entries):
                left = deadline - time.monotonic()
                if left <= 0 or self._broken or self._ledger.summary:
                    raise TimeoutError(
                        f"prober: {what}: not within {timeout:g} s\n{self._broken or ''}{self._ledger.told()}"
                    )
                self._changed.wait(min(left, 1.0))

    def wait_for_successes(self, count: int, *, timeout: float, after: float = 0.0) -> None:
        """Return once `count` requests sent after the moment `after` were answered with 200."""

        def enough(entries: list[Entry]) -> bool:
            return sum(1 for entry in entries if entry.ok and entry.sent_at > after) >= count

        self.wait(enough, what=f"{count} successes sent after {after:.3f}", timeout=timeout)

    def stop(self) -> Ledger:
        """Send nothing more, wait for what is in flight, close the books."""
        if self._process is None or self._reader is None:
            raise ProbeError("stopped before it was started")
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(self._load.timeout_s + 30)
        except subprocess.TimeoutExpired as exc:
            self._process.kill()
            self._process.wait(10)
            raise ProbeError("the prober did not end") from exc
        finally:
            self._reader.join(10)
        if self._broken or self._ledger.summary is None:
            raise ProbeError(f"the prober ended without closing its books: {self._broken or self._process.returncode}")
        return self._ledger

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        if self._reader is not None:
            self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout) if self._process is not None else ():
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                parsed = parse_line(line)
            except (ValueError, TypeError) as exc:
                self._broken = str(exc)
                break
            with self._changed:
                if isinstance(parsed, Entry):
                    self._ledger.entries.append(parsed)
                else:
                    self._ledger.summary = parsed
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
