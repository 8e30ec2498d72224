"""Watches, for moments too short to be caught by asking again: events of objects as they happen."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .kubectl import Kubectl, Object
from .waiting import NotSeenError


class Watch:
    """Calls `seen` with every new state of objects of one kind, from a thread of its own, until `seen` returns True."""

    def __init__(self, kubectl: Kubectl, kind: str, seen: Callable[[Object], bool], *, selector: str = "") -> None:
        self._argv = kubectl.argv(
            "get", kind, "--watch", "-o", "json", *([f"--selector={selector}"] if selector else [])
        )
        self._seen = seen
        self._done = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._thread.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def wait(self, what: str, *, timeout: float) -> None:
        """Return once `seen` has returned True; raise NotSeenError after `timeout`."""
        if not self._done.wait(timeout):
            raise NotSeenError(f"{what}: not within {timeout:g} s")
        if self._error is not None:
            raise AssertionError(f"{what}: {self._error!r}") from self._error

    def _follow(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        decoder = json.JSONDecoder()
        pending = ""
        try:
            while chunk := self._process.stdout.readline():
                pending += chunk
                # kubectl prints objects one after the other, each over many lines, closing at the margin.
                if chunk.startswith("}"):
                    item, end = decoder.raw_decode(pending)
                    pending = pending[end:].lstrip()
                    if self._seen(item):
                        break
        except (ValueError, AssertionError, OSError) as exc:
            self._error = exc
        self._done.set()
