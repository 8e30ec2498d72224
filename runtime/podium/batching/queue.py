"""Requests that wait for a worker: bounded, in buckets of equal shape, earliest deadline first.

A bucket holds what can share one tensor batch. The bucket whose most urgent request has the least time left is served
next; since deadlines are absolute, a waiting request only becomes more urgent and no bucket starves.
"""

import asyncio
import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from podium.errors import QueueFull
from podium.ipc.arena import Promise
from podium.ipc.tensor import Tensor
from podium_crds.tensors import DType


class InputLayout(NamedTuple):
    """What must agree between requests of one batch."""

    name: str
    dtype: DType
    trailing: tuple[int, ...]


Bucket = tuple[InputLayout, ...]
"""Empty: the request shares a batch with nobody."""


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
    """On the event loop's clock, seconds."""
    arrived: float
    future: asyncio.Future[dict[str, Tensor]]
    deaths: int = 0
    """Workers that died after they had begun on it."""
    queued: bool = False
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


def layout(inputs: Mapping[str, Tensor]) -> tuple[int, Bucket]:
    """Rows of a request, and its bucket. Inputs without a common first dimension make a request of one, for itself."""
    firsts = {tensor.shape[0] if tensor.shape else None for tensor in inputs.values()}
    if len(firsts) != 1 or None in firsts:
        return 1, ()
    rows = firsts.pop()
    assert rows is not None
    if rows == 0:
        return 0, ()
    return rows, tuple(InputLayout(name, tensor.dtype, tensor.shape[1:]) for name, tensor in sorted(inputs.items()))


@dataclass(slots=True)
class _Line:
    """Requests of one bucket: a heap of (deadline, tie-break, request), removed ones left in it until they surface."""

    heap: list[tuple[float, int, Waiting]] = field(default_factory=list)
    rows: int = 0
    live: int = 0

    def head(self) -> Waiting | None:
        while self.heap and not self.heap[0][2].queued:
            heapq.heappop(self.heap)
        return self.heap[0][2] if self.heap else None


class BatchQueue:
    """At most `max_size` requests, in lines by bucket."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._lines: dict[Bucket, _Line] = {}
        self._order = count()
        self._size = 0
        self._rows = 0

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> int:
        """Rows of all requests that wait."""
        return self._rows

    def put(self, waiting: Waiting, retry_after_s: float) -> None:
        """Adds a new request. Raises QueueFull."""
        if self._size >= self.max_size:
            raise QueueFull(f"{self._size} requests wait already, the most that are taken", retry_after_s)
        self.restore(waiting)

    def restore(self, waiting: Waiting) -> None:
        """Adds a request that had been taken; it had its place, so there is no bound to check."""
        assert not waiting.queued
        line = self._lines.setdefault(waiting.bucket, _Line())
        heapq.heappush(line.heap, (waiting.deadline, next(self._order), waiting))
        waiting.queued = True
        self._count(line, waiting, 1)

    def discard(self, waiting: Waiting) -> bool:
        """Takes one request out, wherever it stands. False where it is not waiting."""
        if not waiting.queued:
            return False
        waiting.queued = False
        line = self._lines[waiting.bucket]
        self._count(line, waiting, -1)
        self._tidy(waiting.bucket, line)
        return True

    def heads(self) -> list[Waiting]:
        """The most urgent request of each line, the most urgent line first."""
        heads = [head for line in self._lines.values() if (head := line.head()) is not None]
        return sorted(heads, key=_deadline) if len(heads) > 1 else heads

    def rows_like(self, waiting: Waiting) -> int:
        """Rows that could share a batch with this request, its own included."""
        return waiting.rows if waiting.alone else self._lines[waiting.bucket].rows

    def oldest_like(self, waiting: Waiting) -> float:
        """When the request in the same bucket that waits longest arrived."""
        line = self._lines[waiting.bucket]
        return min(entry.arrived for _, _, entry in line.heap if entry.queued)

    def take(self, head: Waiting, max_rows: int) -> list[Waiting]:
        """The head of a line and those behind it that fit with it into `max_rows`, by deadline."""
        line = self._lines[head.bucket]
        assert line.head() is head
        batch: list[Waiting] = []
        rows = 0
        while (candidate := line.head()) is not None:
            if batch and (candidate.alone or rows + candidate.rows > max_rows):
                break
            heapq.heappop(line.heap)
            candidate.queued = False
            self._count(line, candidate, -1)
            batch.append(candidate)
            rows += candidate.rows
            if candidate.alone:
                break
        self._tidy(head.bucket, line)
        return batch

    def drain(self) -> list[Waiting]:
        """Takes everything out."""
        everything = [entry for line in self._lines.values() for _, _, entry in line.heap if entry.queued]
        for waiting in everything:
            self.discard(waiting)
        return everything

    def _count(self, line: _Line, waiting: Waiting, sign: int) -> None:
        line.live += sign
        line.rows += sign * waiting.rows
        self._size += sign
        self._rows += sign * waiting.rows

    def _tidy(self, bucket: Bucket, line: _Line) -> None:
        """Lines of shapes that nobody asks for go, and so do heaps that hold mostly what was removed."""
        if not line.live:
            self._lines.pop(bucket, None)
        elif len(line.heap) > 64 and len(line.heap) > 4 * line.live:
            line.heap = [entry for entry in line.heap if entry[2].queued]
            heapq.heapify(line.heap)


def _deadline(waiting: Waiting) -> float:
    return waiting.deadline
