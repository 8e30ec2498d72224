"""What a forward is expected to take, learned from those that were made. PURE: every time is an argument, in seconds.

t(n) = a + b·n over n rows, by recursive least squares with forgetting. While every batch has the same size nothing new
is learned of how the time splits: the last split is kept and only scaled, so that an overloaded model, all of whose
batches are full, does not forget what a smaller one would save.
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


@dataclass(slots=True)
class ServiceTime:
    """Seconds of one forward over n rows."""

    runs: int = 0
    fixed: float = 0.0
    """a, never negative."""
    per_row: float = 0.0
    """b, never negative."""
    _weight: float = 0.0
    _n: float = 0.0
    _t: float = 0.0
    _nn: float = 0.0
    _nt: float = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """One forward was measured."""
        self.runs += 1
        self._weight = FORGET * self._weight + 1.0
        self._n = FORGET * self._n + rows
        self._t = FORGET * self._t + seconds
        self._nn = FORGET * self._nn + rows * rows
        self._nt = FORGET * self._nt + rows * seconds
        self._fit()

    def seconds(self, rows: int) -> float:
        """What a forward over `rows` rows is expected to take; 0 before anything was measured."""
        return self.fixed + self.per_row * rows

    def _fit(self) -> None:
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        if mean_n <= 0:
            self.fixed, self.per_row = mean_t, 0.0
            return
        scale = self.seconds(1)
        known = self.fixed + self.per_row * mean_n
        # The slope so far, scaled to the present mean; before any is known, all time is taken to be per row: then
        # nothing is claimed to be saved by waiting.
        prior = self.per_row * mean_t / known if scale and known else mean_t / mean_n
        trust = (SPREAD * mean_n) ** 2
        variance = max(0.0, self._nn / self._weight - mean_n * mean_n)
        covariance = self._nt / self._weight - mean_n * mean_t
        slope = (covariance + trust * prior) / (variance + trust)
        self.per_row = min(max(0.0, slope), mean_t / mean_n)
        self.fixed = max(0.0, mean_t - self.per_row * mean_n)


@dataclass(slots=True)
class ServiceTimes:
    """Service times of one model: of each bucket, and of all together for buckets that were not seen yet."""

    overall: ServiceTime = field(default_factory=ServiceTime)
    _by_bucket: "OrderedDict[Hashable, ServiceTime]" = field(default_factory=OrderedDict)
    _seen_at: float | None = None

    def observe(self, bucket: Hashable, rows: int, seconds: float, now: float, *, credited: bool = True) -> None:
        """A run over `rows` rows ended. `credited`: it had its device's credit to itself until the end."""
        own = self._by_bucket.get(bucket)
        if own is None:
            own = self._by_bucket[bucket] = ServiceTime()
            if len(self._by_bucket) > MAX_BUCKETS:
                self._by_bucket.popitem(last=False)
        else:
            self._by_bucket.move_to_end(bucket)
        if not credited and (expected := self.seconds(bucket, rows)):
            seconds = min(seconds, OUTLIER * expected)
        own.observe(rows, seconds)
        self.overall.observe(rows, seconds)
        self._seen_at = now

    def seconds(self, bucket: Hashable, rows: int) -> float:
        """What a run over `rows` rows of that bucket is expected to take; 0 before anything was measured."""
        own = self._by_bucket.get(bucket)
        return (own if own is not None else self.overall).seconds(rows)

    def slowest(self, rows: int) -> float:
        """What a run over `rows` rows of the slowest bucket is expected to take."""
        return max((own.seconds(rows) for own in self._by_bucket.values()), default=self.overall.seconds(rows))

    def fixed(self, bucket: Hashable) -> float:
        """The part of a run that does not depend on its rows: what a second batch would cost again."""
        own = self._by_bucket.get(bucket)
        return (own if own is not None else self.overall).fixed

    def is_stale(self, now: float, after_s: float) -> bool:
        """True where nothing was measured for that long: a prediction must not keep a model from being tried again."""
        return self._seen_at is None or now - self._seen_at > after_s
