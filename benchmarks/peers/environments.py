"""Environments of the peers: made once, under `$XDG_CACHE_HOME/podium-bench`, never in this project's own."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INSTALL_TIMEOUT_S = 1800
DONE = ".complete"


class NotToBeHad(Exception):  # noqa: N818
    """A peer cannot be installed here; the message says why, and goes into its row."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with exactly these requirements."""

    name: str
    requirements: tuple[str, ...]
    python: str | None = None
    """Interpreter to make it with; None: the one that runs the benchmarks."""

    @property
    def root(self) -> Path:
        """Where it lies."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "podium-bench" / self.name

    def interpreter(self) -> Path:
        """Its python, installed if need be. Raises NotToBeHad."""
        python = self.root / "bin" / "python"
        if not (self.root / DONE).is_file():
            shutil.rmtree(self.root, ignore_errors=True)
            self._install(python)
            (self.root / DONE).touch()
        return python

    def packages(self) -> Path:
        """Its site-packages."""
        return next((self.root / "lib").glob("python3.*")) / "site-packages"

    def _install(self, python: Path) -> None:
        made_with = self.python or sys.executable
        if shutil.which(made_with) is None:
            raise NotToBeHad(f"{made_with} is not installed")
        sys.stdout.write(f"  installing {', '.join(self.requirements)} into {self.root}\n")
        sys.stdout.flush()
        uv = Path(sys.executable).with_name("uv")
        _run([str(uv), "venv", "-q", "--python", made_with, str(self.root)])
        _run([str(uv), "pip", "install", "-q", "--python", str(python), *self.requirements])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotToBeHad(f"{command[0]}: {error}") from error
    if done.returncode:
        raise NotToBeHad(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{command} failed")
