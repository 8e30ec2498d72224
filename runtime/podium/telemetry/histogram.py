"""Counts of observations by size: what is measured adds, a scrape or a report reads."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

from podium_crds.assignment import LATENCY_BOUNDS_S


@dataclass(slots=True)
class Histogram:
    """Counts per bucket, not cumulative, the last one above every bound; and the sum of what was counted."""

    bounds: tuple[float, ...] = LATENCY_BOUNDS_S
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> int:
        """One observation; its bucket."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        return bucket

    def add_all(self, values: Iterable[float]) -> None:
        """One observation each."""
        bounds, counts, total = self.bounds, self.counts, self.total
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self.total = total

    def cumulative(self) -> tuple[int, ...]:
        """Observations up to each bound, last of all those there were."""
        return tuple(accumulate(self.counts))
