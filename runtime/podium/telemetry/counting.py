"""Request counts of one revision as plain integers: the hot path adds, a scrape or a report reads."""

import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

from podium.telemetry.histogram import Histogram
from podium_crds.assignment import COMPARISON_BOUNDS_S, LATENCY_BOUNDS_S, Counts

SERVER_ERROR = 500
COUNTED_TOGETHER = 256


class Exemplar(NamedTuple):
    """A request that stands for its bucket."""

    trace_id: str
    seconds: float
    at: float
    """Seconds since the epoch."""


class RequestCounts:
    """Answers by route and status, and their durations in seconds. One thread only."""

    __slots__ = ("_answers", "_compared", "_compared_failed", "_new", "_seconds", "exemplars")

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, Histogram] = {}
        self._new: list[tuple[str, int, float]] = []
        """Answers that are not counted yet: many at once cost less than each by itself."""
        self.exemplars: dict[tuple[str, int], Exemplar] = {}
        """(route, bucket) → the last traced request that was counted there."""
        self._compared, self._compared_failed = Histogram(COMPARISON_BOUNDS_S), 0

    @property
    def answers(self) -> Mapping[tuple[str, int], int]:
        """By route and status."""
        self._count()
        return self._answers

    @property
    def seconds(self) -> Mapping[str, Histogram]:
        """By route."""
        self._count()
        return self._seconds

    def add(self, route: str, status: int, seconds: float, trace_id: str | None = None) -> None:
        """One request was answered. `trace_id` where it is traced."""
        self._new.append((route, status, seconds))
        if len(self._new) >= COUNTED_TOGETHER:
            self._count()
        if trace_id is not None:
            bucket = bisect_left(LATENCY_BOUNDS_S, seconds)
            self.exemplars[route, bucket] = Exemplar(trace_id, seconds, time.time())

    def _count(self) -> None:
        new, self._new = self._new, []
        by_route: dict[str, list[float]] = {}
        for route, status, seconds in new:
            key = (route, status)
            self._answers[key] = self._answers.get(key, 0) + 1
            by_route.setdefault(route, []).append(seconds)
            self._compared_failed += status >= SERVER_ERROR
        for route, durations in by_route.items():
            histogram = self._seconds.get(route)
            if histogram is None:
                histogram = self._seconds[route] = Histogram(LATENCY_BOUNDS_S)
            histogram.add_all(durations)
            self._compared.add_all(durations)

    def restart_comparison(self) -> None:
        """Traffic is divided otherwise from here on: what revisions are compared by begins anew."""
        self._count()
        self._compared, self._compared_failed = Histogram(COMPARISON_BOUNDS_S), 0

    def compared(self) -> Counts:
        """What was answered since, latencies at COMPARISON_BOUNDS_S."""
        self._count()
        buckets, failed = self._compared.cumulative(), self._compared_failed
        return Counts(succeeded=buckets[-1] - failed, failed=failed, latency_buckets=buckets)

    def report(self) -> Counts:
        """As the pod's report gives them: all routes together, buckets cumulative."""
        failed = sum(count for (_, status), count in self.answers.items() if status >= SERVER_ERROR)
        buckets = zip(*(histogram.cumulative() for histogram in self.seconds.values()), strict=True)
        return Counts(
            succeeded=sum(self.answers.values()) - failed,
            failed=failed,
            latency_buckets=tuple(sum(column) for column in buckets),
        )


class BodyCounts:
    """Raw tensors in the bodies of one revision's requests and answers, and those of their bytes that the front end
    copied on the way from the connection to their slot, or back. One thread only."""

    __slots__ = ("in_bytes", "in_copied_bytes", "in_copies", "out_bytes", "out_copied_bytes", "out_copies")

    def __init__(self) -> None:
        self.in_bytes = 0
        self.in_copies = 0
        self.in_copied_bytes = 0
        self.out_bytes = 0
        self.out_copies = 0
        self.out_copied_bytes = 0

    def came_in(self, body: "BodyCounts") -> None:
        """One more body has been read."""
        self.in_bytes += body.in_bytes
        self.in_copies += body.in_copies
        self.in_copied_bytes += body.in_copied_bytes


class StreamCounts:
    """Streams of one revision, and their time to the first chunk in seconds. One thread only."""

    __slots__ = ("active", "cancelled", "chunks", "ended", "failed", "first_s")

    def __init__(self) -> None:
        self.active = 0
        self.ended = 0
        """All that are no longer active: complete, failed and cancelled."""
        self.failed = 0
        """Ended by an error of whatever kind."""
        self.cancelled = 0
        """Given up by their reader."""
        self.chunks = 0
        self.first_s = Histogram()
        """From a stream's admission to its first chunk."""
