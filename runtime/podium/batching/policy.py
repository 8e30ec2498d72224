"""When a batch closes. PURE: every time is an argument, in seconds.

Work-conserving: an idle worker gets what waits at once, unless waiting pays. While a worker is busy the next batch
stays open, since nothing asks for it until a worker frees. Waiting pays when a companion is expected within the wait
and what it saves, the fixed part of a forward, is more than the delay it costs those who wait; the idea of learning
both from traffic follows BentoML's adaptive batching and Clipper (NSDI 2017).
"""

from dataclasses import dataclass, field

FORGET = 0.9
"""Weight of the past in each estimate: about the last ten batches count."""


@dataclass(slots=True)
class ServiceTime:
    """Seconds of a forward over n rows as a + b·n, by least squares with forgetting."""

    _weight: float = 0.0
    _n: float = 0.0
    _t: float = 0.0
    _nn: float = 0.0
    _nt: float = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """One forward was measured."""
        self._weight = FORGET * self._weight + 1.0
        self._n = FORGET * self._n + rows
        self._t = FORGET * self._t + seconds
        self._nn = FORGET * self._nn + rows * rows
        self._nt = FORGET * self._nt + rows * seconds

    def line(self) -> tuple[float, float]:
        """(a, b), neither negative. Before anything was measured: (0, 0)."""
        if not self._weight:
            return 0.0, 0.0
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        variance = self._nn / self._weight - mean_n * mean_n
        if variance < 1e-9:
            # Every batch had the same size: how the time splits is unknown, so nothing is claimed to be saved.
            return 0.0, mean_t / mean_n if mean_n else 0.0
        slope = max(0.0, (self._nt / self._weight - mean_n * mean_t) / variance)
        return max(0.0, mean_t - slope * mean_n), slope

    def seconds(self, rows: int) -> float:
        """What a forward over `rows` rows is expected to take."""
        fixed, per_row = self.line()
        return fixed + per_row * rows


@dataclass(slots=True)
class ArrivalGap:
    """Expected seconds between two requests, by exponential averaging. None until two have come."""

    mean_s: float | None = None
    _last: float | None = None

    def observe(self, now: float) -> None:
        """A request came."""
        if self._last is not None:
            gap = max(0.0, now - self._last)
            self.mean_s = gap if self.mean_s is None else FORGET * self.mean_s + (1 - FORGET) * gap
        self._last = now


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """What the policy sees of the batch that would close next."""

    rows: int
    oldest_arrival: float
    earliest_deadline: float


@dataclass(slots=True)
class BatchPolicy:
    """Limits of one model and what was learned of its traffic."""

    max_rows: int
    max_delay_s: float
    service: ServiceTime = field(default_factory=ServiceTime)
    arrivals: ArrivalGap = field(default_factory=ArrivalGap)

    def wait_s(self, batch: OpenBatch, now: float) -> float:
        """How long an idle worker should still wait for company; 0: close the batch now."""
        remaining = min(self.max_delay_s - (now - batch.oldest_arrival), self._slack_s(batch, now))
        if remaining <= 0 or batch.rows >= self.max_rows:
            return 0.0
        gap = self.arrivals.mean_s
        if gap is None or gap > remaining:
            return 0.0
        fixed, _ = self.service.line()
        saved_s = fixed / (batch.rows + 1)
        return min(gap, remaining) if saved_s > batch.rows * gap / (batch.rows + 1) else 0.0

    def retry_after_s(self, waiting_rows: int, workers: int) -> float:
        """When a refused client may find room: what it takes to answer half of what waits; between 1 and 30 s."""
        per_batch = self.service.seconds(self.max_rows)
        batches = waiting_rows / self.max_rows / max(1, workers)
        return min(30.0, max(1.0, per_batch * batches / 2))

    def is_hopeless(self, deadline: float, now: float) -> bool:
        """True where not even a forward over one row, in half the time expected, would be done by the deadline."""
        return deadline - now < self.service.seconds(1) / 2

    def _slack_s(self, batch: OpenBatch, now: float) -> float:
        return batch.earliest_deadline - now - self.service.seconds(batch.rows + 1)
