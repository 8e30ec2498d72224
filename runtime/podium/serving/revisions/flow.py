"""How fast requests go through what is loaded: rates and quantiles between two looks at the counters that are kept
anyway. A look costs a request nothing; nothing is computed while nobody looks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from podium.serving.dispatch.group import WorkerGroup
from podium.serving.revisions.live import LiveRevision
from podium_crds.assignment import LATENCY_BOUNDS_S

WINDOW_S = 5.0
"""What rates are of, where somebody has looked for so long."""
LEAST_S = 0.5
"""Two looks closer than this tell nothing."""
STALE_S = 15.0
"""A look older than this is of another time."""
MAX_LOOKS = 32

SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class Point:
    """Where something is counted: a revision as a whole, or one of its steps."""

    revision: LiveRevision
    step: str | None = None

    def __hash__(self) -> int:
        return hash((id(self.revision), self.step))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.revision is other.revision and self.step == other.step


@dataclass(frozen=True, slots=True)
class Counted:
    """Since the revision was loaded."""

    ended: int
    failed: int
    """Of a revision: answered with a 5xx. Of a step: requests that failed at it, whoever's fault it was."""
    buckets: tuple[int, ...]
    """By duration, at LATENCY_BOUNDS_S and above; not cumulative."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What went through a point, and waits there now."""

    per_s: float | None
    """None: nobody has looked before, so there is nothing to compare with."""
    failed_per_s: float | None
    p50_s: float | None
    """None: nothing ended meanwhile. Above the last of LATENCY_BOUNDS_S: infinity."""
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class Load:
    """What a member has in hand."""

    running: int
    queued: int


class FlowMeter:
    """Compares looks. Any number of people may look: looks are kept no closer than LEAST_S and no longer than
    STALE_S."""

    def __init__(self, loaded: Callable[[], Iterable[LiveRevision]], clock: Callable[[], float]) -> None:
        """`loaded`: every revision that counts requests at the moment."""
        self._loaded = loaded
        self._clock = clock
        self._looks: deque[tuple[float, Mapping[Point, Counted]]] = deque(maxlen=MAX_LOOKS)

    def look(self) -> dict[Point, Flow]:
        """The flow through every point, since WINDOW_S ago or the first look after that."""
        now, counted = self._clock(), dict(_counted(self._loaded()))
        while self._looks and now - self._looks[0][0] > STALE_S:
            self._looks.popleft()
        before = self._before(now)
        if not self._looks or now - self._looks[-1][0] >= LEAST_S:
            self._looks.append((now, counted))
        if before is None:
            return {point: Flow(None, None, None, None) for point in counted}
        since, earlier = before
        return {point: _flow(earlier.get(point), after, now - since) for point, after in counted.items()}

    def _before(self, now: float) -> tuple[float, Mapping[Point, Counted]] | None:
        known = [look for look in self._looks if now - look[0] >= LEAST_S]
        long_ago = [look for look in known if now - look[0] >= WINDOW_S]
        return long_ago[-1] if long_ago else known[0] if known else None


def load_of(revision: LiveRevision, member: str) -> Load | None:
    """What the workers of a member have in hand, for all that share them; None: it runs in other pods."""
    group = revision.groups[member]
    if not isinstance(group, WorkerGroup):
        return None
    stats = group.stats()
    return Load(stats.in_flight + group.streams_open, stats.queue_depth)


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """The duration that `share` of those counted stay within, between the bounds of its bucket by proportion; infinity
    above the last bound, None where nothing was counted."""
    total = sum(buckets)
    if not total:
        return None
    wanted, seen = share * total, 0
    for index, count in enumerate(buckets):
        if count and seen + count >= wanted:
            if index == len(LATENCY_BOUNDS_S):
                return float("inf")
            low = LATENCY_BOUNDS_S[index - 1] if index else 0.0
            return low + (LATENCY_BOUNDS_S[index] - low) * (wanted - seen) / count
        seen += count
    raise AssertionError("the last bucket reaches every share")


def _counted(loaded: Iterable[LiveRevision]) -> Iterator[tuple[Point, Counted]]:
    for live in loaded:
        yield Point(live), _of_requests(live)
        if live.spec.graph is not None:
            for step in live.spec.graph.steps:
                yield Point(live, step.name), _of_step(live, step.name)


def _of_requests(live: LiveRevision) -> Counted:
    answers = live.counts.answers
    columns = tuple(zip(*(histogram.counts for histogram in live.counts.seconds.values()), strict=True))
    return Counted(
        ended=sum(answers.values()),
        failed=sum(count for (_, status), count in answers.items() if status >= SERVER_ERROR),
        buckets=tuple(sum(column) for column in columns) or (0,) * (len(LATENCY_BOUNDS_S) + 1),
    )


def _of_step(live: LiveRevision, step: str) -> Counted:
    histogram = live.step_seconds.get(step)
    counts = tuple(histogram.counts) if histogram is not None else (0,) * (len(LATENCY_BOUNDS_S) + 1)
    return Counted(sum(counts), live.step_failures[step], counts)


def _flow(before: Counted | None, after: Counted, seconds: float) -> Flow:
    """A revision that was loaded meanwhile has counted from zero."""
    if before is None:
        before = Counted(0, 0, (0,) * len(after.buckets))
    buckets = [late - early for early, late in zip(before.buckets, after.buckets, strict=True)]
    return Flow(
        per_s=(after.ended - before.ended) / seconds,
        failed_per_s=(after.failed - before.failed) / seconds,
        p50_s=quantile(buckets, 0.5),
        p99_s=quantile(buckets, 0.99),
    )
