"""What a forward is expected to take, learned from those that were made. PURE: every time is an argument, in seconds.

t(n) = a + b·n over n rows, by least squares with forgetting. While every batch has the same size nothing new is learned
of how the time splits: the last split is kept and only scaled, so that an overloaded model, all of whose batches are
full, does not forget what a smaller one would save.

Nothing is extrapolated: a run over more rows than were seen is expected to take what the largest one took, since one
size says nothing of the slope, and small sizes little of a large one's. So nobody is refused on a guess; the first
large run is evidence for those that follow.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

FORGET = 0.9
"""Weight of the past in each estimate: about the last ten batches count."""
SPREAD = 0.1
"""Batch sizes that differ by less than this part of their mean say little of the split."""
MAX_BUCKETS = 64
"""Shape buckets with an estimate of their own; the one that was used longest ago goes."""
OUTLIER = 3.0
"""A run that had to share its device counts as at most this many times the expected."""
EVIDENCE_S = 60.0
"""How long a run speaks for its bucket and its size, where no other did since: then the next request is tried, whatever
the last one took."""


@dataclass(slots=True)
class ServiceTime:
    """Seconds of one forward over n rows."""

    runs: int = 0
    fixed: float = 0.0
    """a, never negative."""
    per_row: float = 0.0
    """b, never negative."""
    largest: int = 0
    """Most rows of one run, of late: beyond it nothing is known."""
    seen_at: float = 0.0
    """When a run was last measured."""
    _largest_at: float = 0.0
    _weight: float = 0.0
    _mean_n: float = 0.0
    _mean_t: float = 0.0
    _nn: float = 0.0
    """Weighted sum of (n - mean)²."""
    _nt: float = 0.0
    """Weighted sum of (n - mean)·(t - mean)."""

    def observe(self, rows: int, seconds: float, now: float) -> None:
        """One forward was measured."""
        self.runs += 1
        self.seen_at = now
        if rows >= self.largest or now - self._largest_at > EVIDENCE_S:
            self.largest, self._largest_at = rows, now
        past = FORGET * self._weight
        self._weight = weight = past + 1.0
        apart = rows - self._mean_n
        share = past / weight
        self._nn = FORGET * self._nn + share * apart * apart
        self._nt = FORGET * self._nt + share * apart * (seconds - self._mean_t)
        self._mean_n = mean_n = self._mean_n + apart / weight
        self._mean_t = mean_t = self._mean_t + (seconds - self._mean_t) / weight
        self._split(mean_n, mean_t)

    def seconds(self, rows: int) -> float:
        """What a forward over `rows` rows is expected to take; 0 before anything was measured."""
        return self.fixed + self.per_row * (rows if rows < self.largest else self.largest)

    def _split(self, mean_n: float, mean_t: float) -> None:
        if mean_n <= 0:
            self.fixed, self.per_row = mean_t, 0.0
            return
        # The slope so far, scaled to the present mean; before any is known, all time is taken to be per row: then
        # nothing is claimed to be saved by waiting.
        known = self.fixed + self.per_row * mean_n
        prior = self.per_row * mean_t / known if known else mean_t / mean_n
        trust = self._weight * (SPREAD * mean_n) ** 2
        slope = (self._nt + trust * prior) / (self._nn + trust)
        most = mean_t / mean_n
        self.per_row = slope = 0.0 if slope < 0.0 else min(slope, most)
        self.fixed = max(0.0, mean_t - slope * mean_n)


@dataclass(slots=True)
class ServiceTimes:
    """Service times of one model, by bucket. What was not seen yet is expected to take what the others take on average;
    nobody is refused for that."""

    _by_bucket: "OrderedDict[Hashable, ServiceTime]" = field(default_factory=OrderedDict)
    _last: Hashable = None
    """The bucket that was used last, if any."""
    _seen_at: float | None = None

    def observe(self, bucket: Hashable, rows: int, seconds: float, now: float, *, credited: bool = True) -> None:
        """A run over `rows` rows ended. `credited`: it had its device's credit to itself until the end."""
        own = self._by_bucket.get(bucket)
        if own is None:
            own = self._by_bucket[bucket] = ServiceTime()
            if len(self._by_bucket) > MAX_BUCKETS:
                self._by_bucket.popitem(last=False)
        elif bucket != self._last:
            self._by_bucket.move_to_end(bucket)
        self._last = bucket
        if not credited and rows <= own.largest and (expected := own.seconds(rows)):
            seconds = min(seconds, OUTLIER * expected)
        own.observe(rows, seconds, now)
        self._seen_at = now

    def seconds(self, bucket: Hashable, rows: int) -> float:
        """What a run over `rows` rows of that bucket is expected to take; 0 before anything was measured."""
        own = self._by_bucket.get(bucket)
        if own is not None:
            return own.seconds(rows)
        return _mean([other.seconds(rows) for other in self._by_bucket.values()])

    def known_s(self, bucket: Hashable, rows: int, now: float) -> float:
        """What such a run took at least, by runs of that bucket; 0 where there were none, or long ago. A request may be
        refused on this alone."""
        own = self._by_bucket.get(bucket)
        return own.seconds(rows) if own is not None and now - own.seen_at <= EVIDENCE_S else 0.0

    def has_seen(self, bucket: Hashable, rows: int) -> bool:
        """True where runs of that bucket over as many rows were measured."""
        own = self._by_bucket.get(bucket)
        return own is not None and rows <= own.largest

    def slowest(self, rows: int) -> float:
        """What a run over `rows` rows of the slowest bucket is expected to take."""
        return max([own.seconds(rows) for own in self._by_bucket.values()], default=0.0)

    def fixed(self, bucket: Hashable) -> float:
        """The part of a run that does not depend on its rows: what a second batch would cost again."""
        own = self._by_bucket.get(bucket)
        return own.fixed if own is not None else _mean([other.fixed for other in self._by_bucket.values()])

    def is_stale(self, now: float, after_s: float) -> bool:
        """True where nothing was measured for that long: a prediction must not keep a model from being tried again."""
        return self._seen_at is None or now - self._seen_at > after_s


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
