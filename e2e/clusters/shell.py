"""Run a program, wait for a fact, hold a lock: each bounded in time, each failing with what was last seen."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .base import ClusterError


def say(text: str) -> None:
    """Tell a person about progress, on stderr so that stdout stays for answers."""
    print(text, file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Standard output of `argv`; `env` adds to this process's. Anything but exit 0 raises with the tail of what it said."""
    command = [os.fspath(part) for part in argv]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(f"gave up after {timeout:.0f} s: {' '.join(command)}") from exc
    except FileNotFoundError as exc:
        raise ClusterError(f"not found: {command[0]}") from exc
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-3000:]
        raise ClusterError(f"exit {done.returncode}: {' '.join(command)}\n{said}")
    return done.stdout


def show(argv: Sequence[str | os.PathLike[str]], *, timeout: float, env: Mapping[str, str] | None = None) -> None:
    """Run `argv` with its output shown on stderr as it comes. Anything but exit 0 raises."""
    command = [os.fspath(part) for part in argv]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **env} if env else None,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(f"gave up after {timeout:.0f} s: {' '.join(command)}") from exc
    if done.returncode != 0:
        raise ClusterError(f"exit {done.returncode}: {' '.join(command)}")


def wait_for(what: str, probe: Callable[[], str | None], *, timeout: float, every: float = 0.1) -> None:
    """Return once `probe` returns None. It returns what it saw instead while the fact does not hold yet."""
    deadline = time.monotonic() + timeout
    while True:
        seen = probe()
        if seen is None:
            return
        if time.monotonic() >= deadline:
            raise ClusterError(f"{what}: not within {timeout:.0f} s; last seen: {seen}")
        time.sleep(every)


@contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold an exclusive lock on `path` against other processes; the kernel frees it when this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:

        def attempt() -> str | None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "held by another process"
            return None

        wait_for(f"lock {path}", attempt, timeout=timeout)
        yield
