"""Request counts of one revision as plain integers: the hot path adds, a scrape or a report reads."""

import time
from bisect import bisect_left
from typing import NamedTuple

from podium_crds.assignment import COMPARISON_BOUNDS_S, LATENCY_BOUNDS_S, Counts

SERVER_ERROR = 500


class Exemplar(NamedTuple):
    """A request that stands for its bucket."""

    trace_id: str
    seconds: float
    at: float
    """Seconds since the epoch."""


class RequestCounts:
    """Answers by route and status, and their durations in seconds. One thread only."""

    __slots__ = ("_shared", "answers", "buckets", "exemplars", "seconds")

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], int] = {}
        self.buckets: dict[str, list[int]] = {}
        """route → answers per latency bucket, not cumulative; the last one is above every bound."""
        self.seconds: dict[str, float] = {}
        self.exemplars: dict[tuple[str, int], Exemplar] = {}
        """(route, bucket) → the last traced request that was counted there."""
        self._shared = _Shared()

    def add(self, route: str, status: int, seconds: float, trace_id: str | None = None) -> None:
        """One request was answered. `trace_id` where it is traced."""
        key = (route, status)
        self.answers[key] = self.answers.get(key, 0) + 1
        buckets = self.buckets.get(route)
        if buckets is None:
            buckets = self.buckets[route] = [0] * (len(LATENCY_BOUNDS_S) + 1)
        bucket = bisect_left(LATENCY_BOUNDS_S, seconds)
        buckets[bucket] += 1
        if trace_id is not None:
            self.exemplars[route, bucket] = Exemplar(trace_id, seconds, time.time())
        self.seconds[route] = self.seconds.get(route, 0.0) + seconds
        self._shared.failed += status >= SERVER_ERROR
        self._shared.buckets[bisect_left(COMPARISON_BOUNDS_S, seconds)] += 1

    def restart_comparison(self) -> None:
        """Traffic is divided otherwise from here on: what revisions are compared by begins anew."""
        self._shared = _Shared()

    def compared(self) -> Counts:
        """What was answered since, latencies at COMPARISON_BOUNDS_S."""
        buckets = tuple(accumulated(self._shared.buckets))
        failed = self._shared.failed
        return Counts(succeeded=buckets[-1] - failed, failed=failed, latency_buckets=buckets)

    def report(self) -> Counts:
        """As the pod's report gives them: all routes together, buckets cumulative."""
        failed = sum(count for (_, status), count in self.answers.items() if status >= SERVER_ERROR)
        totals = [sum(column) for column in zip(*self.buckets.values(), strict=True)]
        return Counts(
            succeeded=sum(self.answers.values()) - failed, failed=failed, latency_buckets=tuple(accumulated(totals))
        )


class StreamCounts:
    """Streams of one revision, and their time to the first chunk in seconds. One thread only."""

    __slots__ = ("active", "cancelled", "chunks", "ended", "failed", "first_buckets", "first_seconds")

    def __init__(self) -> None:
        self.active = 0
        self.ended = 0
        """All that are no longer active: complete, failed and cancelled."""
        self.failed = 0
        """Ended by an error of whatever kind."""
        self.cancelled = 0
        """Given up by their reader."""
        self.chunks = 0
        self.first_buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
        """Streams by time to the first chunk, not cumulative; the last bucket is above every bound."""
        self.first_seconds = 0.0

    def observe_first(self, seconds: float) -> None:
        """A stream's first chunk came so long after it was admitted."""
        self.first_buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.first_seconds += seconds


class _Shared:
    __slots__ = ("buckets", "failed")

    def __init__(self) -> None:
        self.failed = 0
        self.buckets = [0] * (len(COMPARISON_BOUNDS_S) + 1)


def accumulated(values: list[int]) -> list[int]:
    """Running sums."""
    total, sums = 0, []
    for value in values:
        total += value
        sums.append(total)
    return sums
