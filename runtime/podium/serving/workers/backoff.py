"""How long a dead worker waits for its successor, and from when on its deaths are a crash loop. Pure."""

from dataclasses import dataclass

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 30.0
STABLE_AFTER_S = 60.0
"""A life this long clears the count of failures."""
CRASH_LOOP_FAILURES = 3
LEAST_SHARE = 0.5
"""Jitter: between this share of the delay and all of it."""


@dataclass(slots=True)
class Backoff:
    """The failures of one worker in a row."""

    failures: int = 0

    @property
    def is_crash_loop(self) -> bool:
        """True once it has died so often without a stable life in between."""
        return self.failures >= CRASH_LOOP_FAILURES

    def note_end(self, lived_s: float | None) -> None:
        """A life has ended: after so many seconds of readiness, or before it was ready (None)."""
        self.failures = 1 if lived_s is not None and lived_s > STABLE_AFTER_S else self.failures + 1

    def delay_s(self, chance: float) -> float:
        """Seconds until the next start, `chance` in [0, 1): none after the first death, then doubling to the cap."""
        if self.failures <= 1:
            return 0.0
        longest: float = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self.failures, 16))
        return longest * (LEAST_SHARE + (1 - LEAST_SHARE) * chance)
