"""Steps with their time, on stdout, for a person who waits."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Numbers the steps. One per run."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announces a step, and how long it took once it is done."""
        self._number += 1
        tell(f"\n[{self._number}/{self._total}] {title}")
        started = time.monotonic()
        yield
        tell(f"      done in {_seconds(time.monotonic() - started)}")

    def elapsed(self) -> str:
        """Time since the first step began."""
        return _seconds(time.monotonic() - self._started)


def tell(text: str = "") -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def detail(text: str) -> None:
    """A line that belongs to the step."""
    tell("\n".join(f"      {line}" for line in text.splitlines()))


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
