"""`Backlog`: everything of one model that waits for a worker, and which batch goes next. PURE: time is an argument.

Order: halves of failed batches, then the queue. Requests that cannot make their deadline are refused as they come
(`refusal`), or dropped as a batch closes, before they cost a forward. Who drops them fails their futures.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from podium.batching.policy import BatchPolicy, OpenBatch
from podium.batching.queue import BatchQueue, Caps, Waiting
from podium.errors import DeadlineExceeded, PodiumError, PredictedLate

PROBE_AFTER_S = 1.0
"""A prediction this old drops nothing while no worker runs: the model may have become faster meanwhile."""


@dataclass(slots=True)
class Backlog:
    """Queue, retries and policy of one model."""

    queue: BatchQueue
    policy: BatchPolicy
    drop: Callable[[Waiting, DeadlineExceeded], None]
    """Told of each request that is not run since it would be late."""
    room_bytes: Callable[[], int] | None = None
    """What a batch may take for its inputs and outputs, as of now; None: no limit."""
    max_elements: int | None = None
    is_padded: bool = False
    """Inputs of a batch are filled up to the longest: those of like length go together."""
    _again: "deque[list[Waiting]]" = field(default_factory=deque)
    _unhurried: tuple[float, int] | None = None
    """Seconds that no request has to wait, and the rows waiting up to which that holds; None: to be worked out."""
    _last_close: tuple[float, float] | None = None
    """When a batch was closed that left others waiting, and how long it was expected to run, per worker."""

    @property
    def waiting(self) -> int:
        """Requests."""
        again = sum([len(batch) for batch in self._again]) if self._again else 0
        return self.queue.size + again

    @property
    def retries(self) -> Sequence[Sequence[Waiting]]:
        """Parts of failed batches that wait to be run again."""
        return self._again

    @property
    def has_retries(self) -> bool:
        """True where a part of a failed batch goes next."""
        return self._again_head() is not None

    def run_again(self, batch: Sequence[Waiting]) -> None:
        """A part of a failed batch, which goes before all others."""
        self._again.append(list(batch))

    def is_unhurried(self, waiting: Waiting) -> bool:
        """True where no prediction, however pessimistic, comes near the deadline: one comparison for a request, since
        the bound is worked out once for each turn, and only where somebody asks."""
        if self._unhurried is None:
            self._unhurried = self._bound_waits()
        bound_s, up_to_rows = self._unhurried
        return waiting.deadline - waiting.arrived > bound_s and self.queue.rows <= up_to_rows

    def forget_bound(self) -> None:
        """Whatever was predicted before has changed: a run was measured, or rows were taken."""
        self._unhurried = None

    def _bound_waits(self) -> tuple[float, int]:
        policy = self.policy
        rows = 2 * self.queue.rows + 4 * policy.cap.limit
        batches = rows // max(1, policy.cap.rows) + 3  # those in hand, and the request's own
        return batches * policy.service.slowest(policy.cap.limit) * policy.stretch, rows

    def refusal(self, waiting: Waiting, now: float, workers: int, busy_s: float) -> PodiumError | None:
        """Why this request is not worth taking; None, and when its answer is expected is noted in it, where it is.
        Microseconds, whatever waits.

        `busy_s`: until a worker frees. Call it only while all workers are busy: an idle one tries anything.
        """
        policy, rows = self.policy, waiting.rows
        slack = waiting.deadline - now
        run_s = policy.service.known_s(waiting.bucket, rows, now)
        if run_s > slack:
            return DeadlineExceeded(f"{slack * 1000:.0f} ms are left; the model takes about {run_s * 1000:.0f} ms")
        most_s = policy.slip_s(waiting.bucket)
        starts_s = busy_s + policy.predicted_wait_s(self.queue.rows, waiting.bucket, workers)
        if starts_s + min(most_s, starts_s) + run_s > slack:
            ahead = self.queue.rows_ahead(waiting)
            starts_s = busy_s + policy.predicted_wait_s(ahead, waiting.bucket, workers)
        # A wait can be longer than predicted; what begins at once is not refused on a guess.
        late_s = starts_s + min(most_s, starts_s) + run_s - slack
        if late_s <= 0:
            waiting.expected_at = now + starts_s + run_s
            return None
        words = f"the answer would come about {late_s * 1000:.0f} ms after the deadline"
        return PredictedLate(words, min(30.0, max(1.0, late_s)))

    def next_run_s(self, now: float) -> float | None:
        """What the next batch is expected to take, 0 where that is unknown; None: nothing shall run now."""
        head = (self._again_head() if self._again else None) or self._ready_head(now)
        if head is None:
            return None
        rows = min(self.policy.cap.rows, self.queue.rows_like(head)) if head.queued else head.rows
        return self.policy.service.seconds(head.bucket, rows)

    def is_full(self, now: float) -> bool:
        """True where the next batch would not gain by staying open."""
        if self._again_head() is not None:
            return True
        heads = self._heads(now)
        return bool(heads) and self.queue.rows_like(heads[0]) >= self.policy.cap.rows

    def wake_s(self, now: float) -> float | None:
        """In how many seconds a wait for company ends; None where nothing waits for it."""
        if not self.policy.max_delay_s:
            return None
        waits = [self._wait_s(head, now) for head in self._heads(now)]
        return min((wait_s for wait_s in waits if wait_s > 0), default=None)

    def take(self, now: float, *, workers: int, is_idle: bool, begins_s: float = 0.0) -> list[Waiting]:
        """Closes the next batch; empty where there is none. `is_idle`: no batch of this model runs. `begins_s`: until
        its worker is done with the batch before."""
        while self._again:
            batch = [waiting for waiting in self._again.popleft() if not waiting.future.done()]
            if batch:
                return batch
        while (head := self._ready_head(now)) is not None:
            room = None if self.room_bytes is None else self.room_bytes()
            batch = self.queue.take(
                head, Caps(self.policy.cap.rows, self.max_elements, room, self._hurry(head, now)), now
            )
            if batch := self._in_time(batch, now + begins_s, is_idle):
                self._note_turn(batch, now, workers)
                return batch
        return []

    def discard(self, waiting: Waiting) -> bool:
        """Takes a request out that nobody waits for any more. False where it is not in the queue."""
        return self.queue.discard(waiting)

    def drain(self) -> list[Waiting]:
        """Takes everything out."""
        again = [waiting for batch in self._again for waiting in batch]
        self._again.clear()
        return again + self.queue.drain()

    def _again_head(self) -> Waiting | None:
        while self._again:
            for waiting in self._again[0]:
                if not waiting.future.done():
                    return waiting
            self._again.popleft()
        return None

    def _heads(self, now: float) -> list[Waiting]:
        return self.queue.heads(now, self._needs_s) if self.queue.size else []

    def _needs_s(self, waiting: Waiting) -> float:
        return self.policy.service.seconds(waiting.bucket, waiting.rows)

    def _ready_head(self, now: float) -> Waiting | None:
        """The head of the first line that should not wait for company any longer."""
        for head in self._heads(now):
            if not self.policy.max_delay_s or self._wait_s(head, now) <= 0:
                return head
        return None

    def _wait_s(self, head: Waiting, now: float) -> float:
        if head.alone:
            return 0.0
        rows = self.queue.rows_like(head)
        return self.policy.wait_s(OpenBatch(rows, self.queue.oldest_like(head), head.deadline, head.bucket), now)

    def _hurry(self, head: Waiting, now: float) -> float | None:
        """Whose deadline is before this time is not passed over for its length: there is no time for a run between.
        None where lengths do not matter."""
        if not self.is_padded:
            return None
        return now + 3 * self.policy.service.seconds(head.bucket, self.policy.cap.rows) * self.policy.stretch

    def _in_time(self, batch: list[Waiting], begins: float, is_idle: bool) -> list[Waiting]:
        """The batch without those who would miss their deadline in it, if it begins then; empty, and the rest put back,
        to try anew.

        One who would make it in a smaller batch gets that where nobody else waits; else it goes, since serving it
        would cost the others theirs (Nexus: early drop).
        """
        service, bucket = self.policy.service, batch[0].bucket
        runs_s = service.known_s(bucket, sum([waiting.rows for waiting in batch]), begins)
        late = [waiting for waiting in batch if begins + runs_s > waiting.deadline]
        if not late or (is_idle and service.is_stale(begins, PROBE_AFTER_S)):
            return batch
        hopeless = [w for w in late if begins + service.known_s(bucket, w.rows, begins) > w.deadline]
        if not hopeless and not len(self.queue):
            return self._shrunk(batch, late, begins)
        gone = set(late if len(self.queue) else hopeless)
        if gone and (expected_at := batch[-1].expected_at):
            self.policy.slip.observe(begins + runs_s - expected_at)
        for waiting in batch:
            if waiting in gone:
                self.drop(waiting, DeadlineExceeded("the time left is less than the model takes"))
            else:
                self.queue.restore(waiting)
        return []

    def _shrunk(self, batch: list[Waiting], late: list[Waiting], begins: float) -> list[Waiting]:
        """As many of the most urgent as still make it; the others wait for the next batch."""
        slack = min(waiting.deadline for waiting in late) - begins
        service, rows, kept = self.policy.service, 0, 0
        for waiting in batch:
            if kept and service.known_s(waiting.bucket, rows + waiting.rows, begins) > slack:
                break
            rows += waiting.rows
            kept += 1
        for waiting in batch[kept:]:
            self.queue.restore(waiting)
        return batch[:kept]

    def _note_turn(self, batch: list[Waiting], now: float, workers: int) -> None:
        if self._last_close is not None:
            began, run_s = self._last_close
            self.policy.observe_turn(now - began, run_s)
        self._last_close = None
        if len(self.queue):
            service, bucket, rows = self.policy.service, batch[0].bucket, sum([waiting.rows for waiting in batch])
            if service.has_seen(bucket, rows):  # how far a guess was off says nothing of the device
                self._last_close = now, service.seconds(bucket, rows) / max(1, workers)
