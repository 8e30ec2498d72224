"""Run a program, wait for a fact, hold a lock: each bounded in time, each failing with what was last seen."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from .base import ClusterError

Argv = list[str | os.PathLike[str]]


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
    """Standard output of `argv`; `env` adds to this process's. Anything but exit 0 raises with what it said."""
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


def follow(argv: Sequence[str | os.PathLike[str]], log: Path, *, prefix: str, timeout: float) -> None:
    """Run `argv` with its output in `log`, and tell a person the lines that begin with `prefix` as they come.

    Anything but exit 0 raises with the end of the output.
    """
    command = [os.fspath(part) for part in argv]
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    last: deque[str] = deque(maxlen=40)
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        timer = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                last.append(line)
                if line.startswith(prefix):
                    say(f"  [{time.monotonic() - started:4.0f} s] {line.strip()[:160]}")
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
        finally:
            timer.cancel()
    if code != 0:
        raise ClusterError(
            f"exit {code} (limit {timeout:.0f} s): {' '.join(command)}\n{''.join(last)}(all of it: {log})"
        )


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


def locked(path: Path, *, timeout: float) -> AbstractContextManager[None]:
    """Hold an exclusive lock on `path` against other processes; the kernel frees it when this process dies."""
    return _flock(path, fcntl.LOCK_EX, timeout)


def shared(path: Path, *, timeout: float) -> AbstractContextManager[None]:
    """Hold a lock on `path` that others may share, and that keeps out those who want it `locked`."""
    return _flock(path, fcntl.LOCK_SH, timeout)


@contextmanager
def _flock(path: Path, mode: int, timeout: float) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:

        def attempt() -> str | None:
            try:
                fcntl.flock(handle, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                return "held by another process"
            return None

        wait_for(f"lock {path}", attempt, timeout=timeout)
        yield
