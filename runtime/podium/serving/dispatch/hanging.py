"""When a forward counts as hung, and `Hangs`, which kills its worker then: one timer for a group, none for a batch."""

from collections.abc import Callable, Iterator

from podium.serving.dispatch.expiry import DeadlineWatch
from podium.serving.dispatch.hands import Hands, RunningBatch
from podium_crds.assignment import Member

HANG_GRACE_S = 5.0
"""How far beyond the last deadline in it a batch may run before its worker is killed."""


def hung_at(member: Member, began: float, latest: float) -> float:
    """When a forward that began then has made no progress for too long. `latest`: the last deadline in its batch."""
    # A client's short deadline must not get the worker killed: the model's own timeout is the least it may take.
    by_requests = began + member.timeout_seconds
    # Only a smoke test has deadlines beyond that: it is given what it was promised.
    if member.hang_timeout_seconds is not None and latest <= by_requests:
        return began + member.hang_timeout_seconds
    return max(latest, by_requests) + HANG_GRACE_S


def warm_up_hung_at(member: Member, began: float) -> float:
    """As `hung_at`, for a warm-up: it compiles, and each one has the time that was promised, however long it waited for
    those before it."""
    return began + member.warmup_timeout_seconds + HANG_GRACE_S


class Hangs:
    """Of one group. Used from one event loop; `close` it."""

    def __init__(self, hands: Hands, member: Callable[[], Member], clock: Callable[[], float]) -> None:
        """`hands`: batches that are not there any more are not watched. `member`: as it is tuned now."""
        self._hands = hands
        self._member = member
        self._watch = DeadlineWatch(clock, self._kill_hung, self._times)

    def watch(self, running: RunningBatch) -> None:
        """The batch may have begun: its time counts from `running.began`."""
        if running.is_warm_up:
            running.hung_at = warm_up_hung_at(self._member(), running.began)
        else:
            latest = max([waiting.deadline for waiting in running.requests])
            running.hung_at = hung_at(self._member(), running.began, latest)
        self._watch.add(running.hung_at)

    def close(self) -> None:
        """Gives the timer back."""
        self._watch.close()

    def _kill_hung(self, now: float) -> None:
        """A worker's death leads to the end of its batches."""
        for instance, running in list(self._hands.items()):
            if running.hung_at is not None and running.hung_at <= now:
                running.hung_at = None
                instance.kill(f"batch {running.number} hung")

    def _times(self) -> Iterator[float]:
        for running in self._hands:
            if running.hung_at is not None:
                yield running.hung_at
