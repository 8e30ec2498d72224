"""When a busy worker is given the batch that follows, so that the hand-off costs it no idle time.

Late binding comes first: a batch stays open for company as long as nobody could run it. So it goes ahead only where it
is full anyhow, or one hand-off before its worker is expected to be free; and never past a group whose turn it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from podium.batching.backlog import Backlog
from podium.serving.dispatch.hands import Hands, RunningBatch
from podium.serving.dispatch.lane import Lane
from podium.serving.workers.supervisor import Supervisor

MIN_RUNS = 2.0
"""A batch is closed early only where a run takes this many times the hand-off: else little is saved by it."""


@dataclass(frozen=True, slots=True)
class HandAhead:
    """Decides for the workers of one group."""

    backlog: Backlog
    hands: Hands

    def workers(self, lanes: Sequence[Lane], now: float) -> Iterator[Supervisor]:
        """Those who shall have their next batch now."""
        for lane in lanes:
            for instance in lane.instances:
                if self._wants(lane, instance, now):
                    yield instance

    def next_time(self, instances: Sequence[Supervisor], now: float) -> float | None:
        """When to look again, if that is known."""
        times = []
        for instance in instances:
            first = self.hands.first(instance)
            at = self._due(first) if first is not None and not self.hands.is_full(instance) else None
            if at is not None and at > now:
                times.append(at)
        return min(times, default=None)

    def _wants(self, lane: Lane, instance: Supervisor, now: float) -> bool:
        first = self.hands.first(instance)
        if first is None or first.run is None or not instance.ready or self.hands.is_full(instance):
            return False
        if not self.backlog.is_full(now):
            due = self._due(first)
            if due is None or due > now:
                return False
            if self.backlog.policy.expects_returns(first.requests[0].bucket):
                return False  # those whom this batch answers are to be in the next one
        # A free worker would begin at once, as soon as there is a credit for it.
        return not lane.has_free_worker() and not lane.is_contended(now) and self.backlog.next_run_s(now) is not None

    def _due(self, first: RunningBatch) -> float | None:
        """When the batch behind this one should be on its way; None where runs are too short for that."""
        hand_off_s = self.backlog.policy.hand_off_s
        if not hand_off_s or first.expected_s < MIN_RUNS * hand_off_s:
            return None
        return first.began + first.expected_s - hand_off_s
