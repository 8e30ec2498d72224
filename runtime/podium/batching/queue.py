"""Requests that wait for a worker: bounded, in lines of what can share a batch, by priority and deadline.

Within a line the lower priority number goes first, then the earlier deadline. A level gains one step for every
AGEING_S that its oldest request has waited, so that none waits for ever. Between lines, after priority, the one goes
first whose head is latest relative to its slack. PURE: every time is an argument, in seconds.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple, Protocol

from podium.batching.layouts import Bucket
from podium.errors import QueueFull
from podium.ipc.arena import Promise
from podium.ipc.tensor import Tensor
from podium.telemetry.timeline import Timeline

DEFAULT_PRIORITY = 5
"""Between 1, the most urgent, and 9."""
AGEING_S = 1.0
"""Waiting time that is worth one step of priority."""
AGE_LIMIT_S = 1.0
"""Beyond it a request counts as late, however far its deadline is."""
SAMPLE = 1024
"""Entries of a line that are looked at to say what is ahead of a request; of longer ones a sample is taken."""


class Outcome(Protocol):
    """Where a request's answer goes: an asyncio.Future, or podium.serving.dispatch.direct.DirectCall."""

    def done(self) -> bool:
        """There is an outcome, or nobody waits for one any more."""

    def set_result(self, result: dict[str, Tensor], /) -> None:
        """Outputs, leased to whoever waits."""

    def set_exception(self, exception: Exception, /) -> None:
        """Why there are none."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One request on its way through the batcher. `future` gets the outputs, whose leases its reader owns.

    Inputs are retained from `put` until the request has its answer.
    """

    request_id: str
    inputs: Mapping[str, Tensor]
    rows: int
    bucket: Bucket
    deadline: float
    """On the monotonic clock, seconds."""
    arrived: float
    future: Outcome
    priority: int = DEFAULT_PRIORITY
    elements: int = 0
    """Of one row, before padding; counted only where the model limits the elements of a batch, or pads."""
    nbytes: int = 0
    """Of its inputs, and of its outputs as far as that is known: what a joined batch takes of the arena for it."""
    deaths: int = 0
    """Workers that died after they had begun on it."""
    queued: bool = False
    passed_over: bool = False
    """A request behind it went first, since that one's length was nearer to the batch's; it happens once."""
    timeline: Timeline | None = None
    """Where its stages are noted, if they are."""
    expected_at: float = 0.0
    """When its answer was predicted for as it came; 0 where nothing was predicted."""
    promise: Promise | None = None
    """Room in the arena for its inputs and outputs, until its first dispatch takes it."""

    def end_promise(self) -> None:
        """The room is taken, or nobody needs it any more. Idempotent."""
        if self.promise is not None:
            self.promise.end()
            self.promise = None

    @property
    def alone(self) -> bool:
        """True where it must be the only request of its batch: not batchable, or suspected of killing workers."""
        return not self.bucket or self.deaths > 0


class Caps(NamedTuple):
    """What a batch may hold at most."""

    rows: int
    elements: int | None = None
    """Padded elements of all inputs together; None: no limit."""
    nbytes: int | None = None
    """Inputs and outputs together; None: no limit."""
    hurried_before: float | None = None
    """Where inputs are padded: requests of the head's length go first, but for deadlines before this time. None: all
    go in the order of urgency."""


@dataclass(slots=True)
class _Level:
    """Requests of one priority in a line. Removed ones stay in both orders until they surface."""

    heap: list[tuple[float, int, Waiting]] = field(default_factory=list)
    arrivals: "deque[Waiting]" = field(default_factory=deque)
    live: int = 0
    rows: int = 0

    def head(self) -> Waiting:
        """The earliest deadline. Only where `live`."""
        while not self.heap[0][2].queued:
            heapq.heappop(self.heap)
        return self.heap[0][2]

    def oldest(self) -> Waiting:
        """The one that waits longest. Only where `live`."""
        while not self.arrivals[0].queued:
            self.arrivals.popleft()
        return self.arrivals[0]

    def tidy(self) -> None:
        """Forgets removed requests where they are most of what is kept."""
        if len(self.heap) > 64 and len(self.heap) > 4 * self.live:
            self.heap = [entry for entry in self.heap if entry[2].queued]
            heapq.heapify(self.heap)
        if len(self.arrivals) > 64 and len(self.arrivals) > 4 * self.live:
            self.arrivals = deque(waiting for waiting in self.arrivals if waiting.queued)


@dataclass(slots=True)
class _Line:
    """Requests of one bucket, by priority."""

    levels: dict[int, _Level] = field(default_factory=dict)
    rows: int = 0
    live: int = 0

    def first(self, now: float) -> _Level:
        """The level that goes first. Only where `live`."""
        if len(self.levels) == 1:
            (level,) = self.levels.values()
            return level
        return self.best(now)[1]

    def best(self, now: float) -> tuple[int, _Level]:
        """The level that goes first and its effective priority. Only where `live`."""
        if len(self.levels) == 1:
            ((priority, level),) = self.levels.items()
            return _aged(priority, level, now), level
        ranked = [
            (_aged(priority, level, now), level.head().deadline, level) for priority, level in self.levels.items()
        ]
        effective, _, level = min(ranked, key=lambda entry: entry[:2])
        return effective, level

    def oldest(self) -> Waiting:
        """The one that waits longest, of all levels."""
        return min((level.oldest() for level in self.levels.values()), key=_arrived)


class BatchQueue:
    """At most `max_size` requests, in lines by bucket."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._lines: dict[Bucket, _Line] = {}
        self._order = count()
        self.size = 0
        """Requests that wait, for reading only: `len` takes two calls."""
        self._rows = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Waiting]:
        """Everyone who waits, in no order."""
        for line in self._lines.values():
            for level in line.levels.values():
                for _, _, waiting in level.heap:
                    if waiting.queued:
                        yield waiting

    @property
    def rows(self) -> int:
        """Rows of all requests that wait."""
        return self._rows

    def put(self, waiting: Waiting, retry_after_s: Callable[[], float]) -> None:
        """Adds a new request. Raises QueueFull."""
        if self.size >= self.max_size:
            raise QueueFull(f"{self.size} requests wait already, the most that are taken", retry_after_s())
        self.restore(waiting)

    def restore(self, waiting: Waiting) -> None:
        """Adds a request that had been taken; it had its place, so there is no bound to check."""
        assert not waiting.queued
        line = self._lines.get(waiting.bucket)
        if line is None:
            line = self._lines[waiting.bucket] = _Line()
        level = line.levels.get(waiting.priority)
        if level is None:
            level = line.levels[waiting.priority] = _Level()
        heapq.heappush(level.heap, (waiting.deadline, next(self._order), waiting))
        if level.arrivals and waiting.arrived < level.arrivals[0].arrived:
            level.arrivals.appendleft(waiting)
        else:
            level.arrivals.append(waiting)
        waiting.queued = True
        self._count(line, level, waiting, 1)

    def discard(self, waiting: Waiting) -> bool:
        """Takes one request out, wherever it stands. False where it is not waiting."""
        if not waiting.queued:
            return False
        waiting.queued = False
        line = self._lines[waiting.bucket]
        level = line.levels[waiting.priority]
        self._count(line, level, waiting, -1)
        self._tidy(waiting, line, level)
        return True

    def heads(self, now: float, needs_s: Callable[[Waiting], float]) -> list[Waiting]:
        """The most urgent request of each line, the line first that should be served first.

        `needs_s`: what a run over a request of the line is expected to take.
        """
        if len(self._lines) == 1:
            (line,) = self._lines.values()
            return [line.first(now).head()]
        ranked: list[tuple[int, float, float, int, Waiting]] = []
        for place, line in enumerate(self._lines.values()):
            effective, level = line.best(now)
            head, oldest = level.head(), level.oldest()
            ranked.append((effective, -_lateness(head, oldest, now, needs_s(head)), head.deadline, place, head))
        ranked.sort(key=lambda entry: entry[:4])
        return [entry[4] for entry in ranked]

    def rows_like(self, waiting: Waiting) -> int:
        """Rows that could share a batch with this request, its own included."""
        return waiting.rows if waiting.alone else self._lines[waiting.bucket].rows

    def oldest_like(self, waiting: Waiting) -> float:
        """When the request in the same line that waits longest arrived."""
        return self._lines[waiting.bucket].oldest().arrived

    def rows_ahead(self, waiting: Waiting) -> int:
        """Rows that would be served before this request came to its turn, ageing left out; of long lines estimated."""
        total = 0
        for line in self._lines.values():
            for priority, level in line.levels.items():
                if priority < waiting.priority:
                    total += level.rows
                elif priority == waiting.priority:
                    total += _rows_due(level, waiting.deadline)
        return total

    def take(self, head: Waiting, caps: Caps, now: float) -> list[Waiting]:
        """The head of a line and those behind it that fit with it into the caps. It goes whatever they are."""
        line = self._lines[head.bucket]
        if caps.hurried_before is not None and line.live > 1 and (line.rows > caps.rows or caps.elements is not None):
            return self._take_alike(line, caps, now)
        batch: list[Waiting] = []
        rows = longest = nbytes = 0
        while line.live:
            level = line.first(now)
            candidate = level.head()
            if batch and (candidate.alone or rows + candidate.rows > caps.rows):
                break
            longest = max(longest, candidate.elements)
            if batch and caps.elements is not None and (rows + candidate.rows) * longest > caps.elements:
                break
            nbytes += candidate.nbytes
            if batch and caps.nbytes is not None and nbytes > caps.nbytes:
                break
            self._pop(line, level, candidate)
            batch.append(candidate)
            rows += candidate.rows
            if candidate.alone:
                break
        return batch

    def _take_alike(self, line: _Line, caps: Caps, now: float) -> list[Waiting]:
        """As `take`, in a padded line where more wait than fit: the head, those who must not wait any longer, and then
        whoever is nearest to the head in length, of twice as many as a batch takes."""
        seen: list[Waiting] = []
        rows = 0
        while line.live and rows < 2 * caps.rows:
            level = line.first(now)
            candidate = level.head()
            if seen and candidate.alone:
                break
            self._pop(line, level, candidate)
            seen.append(candidate)
            rows += candidate.rows
            if candidate.alone:
                break
        batch = _alike(seen, caps)
        for waiting in seen:
            if waiting not in batch:
                waiting.passed_over = True
                self.restore(waiting)
        return batch

    def _pop(self, line: _Line, level: _Level, head: Waiting) -> None:
        """Takes the head of a level out."""
        heapq.heappop(level.heap)
        head.queued = False
        self._count(line, level, head, -1)
        self._tidy(head, line, level)

    def drain(self) -> list[Waiting]:
        """Takes everything out."""
        everything = list(self)
        for waiting in everything:
            self.discard(waiting)
        return everything

    def _count(self, line: _Line, level: _Level, waiting: Waiting, sign: int) -> None:
        rows = sign * waiting.rows
        level.live += sign
        level.rows += rows
        line.live += sign
        line.rows += rows
        self.size += sign
        self._rows += rows

    def _tidy(self, waiting: Waiting, line: _Line, level: _Level) -> None:
        """Levels and lines that nobody waits in go."""
        if level.live:
            level.tidy()
            return
        del line.levels[waiting.priority]
        if not line.live:
            del self._lines[waiting.bucket]


def _alike(seen: Sequence[Waiting], caps: Caps) -> list[Waiting]:
    """Of requests in the order of urgency, those that share a batch with the first."""
    head, hurried_before = seen[0], caps.hurried_before
    assert hurried_before is not None
    urgent = [w for w in seen[1:] if w.passed_over or w.deadline < hurried_before]
    others = [w for w in seen[1:] if not (w.passed_over or w.deadline < hurried_before)]
    others.sort(key=lambda waiting: abs(waiting.elements - head.elements))
    batch, rows, longest, nbytes = [head], head.rows, head.elements, head.nbytes
    for candidate in (*urgent, *others):
        longest = max(longest, candidate.elements)
        rows += candidate.rows
        nbytes += candidate.nbytes
        if (
            rows > caps.rows
            or (caps.elements is not None and rows * longest > caps.elements)
            or (caps.nbytes is not None and nbytes > caps.nbytes)
        ):
            break
        batch.append(candidate)
    return batch


def _aged(priority: int, level: _Level, now: float) -> int:
    return priority - int(max(0.0, now - level.oldest().arrived) / AGEING_S)


def _lateness(head: Waiting, oldest: Waiting, now: float, needs_s: float) -> float:
    """0 as it comes, 1 when it has to start now; above that it is late."""
    slack = max(1e-6, head.deadline - head.arrived - needs_s)
    return max((now - head.arrived) / slack, (now - oldest.arrived) / AGE_LIMIT_S)


def _rows_due(level: _Level, deadline: float) -> int:
    stride = 1 + len(level.heap) // SAMPLE
    due = sum(w.rows for at, _, w in level.heap[::stride] if at <= deadline and w.queued)
    return due * stride


def _arrived(waiting: Waiting) -> float:
    return waiting.arrived
