"""Takes a request in: counts it, pins the revision that answers it to the end, gives it a deadline, lets it go."""

from collections.abc import Callable
from dataclasses import dataclass

from podium.errors import Overloaded
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.residents import Residents
from podium_crds.assignment import ResourceKind

MAX_IN_FLIGHT = 8192
"""Requests at once, over all models: a bound on memory, far above what queues admit."""


@dataclass(slots=True)
class Admitted:
    """A request from its head to its last byte."""

    started: float
    """Monotonic seconds."""
    revision: LiveRevision | None = None
    """Pinned: whatever is routed meanwhile, this one answers. None until it is known who is asked."""

    def deadline(self, timeout_s: float | None) -> float:
        """When the answer must be there: the revision's timeout, or a shorter one that the client gave."""
        assert self.revision is not None, "a request has a deadline once it is pinned"
        longest = float(self.revision.spec.timeout_seconds)
        return self.started + (longest if timeout_s is None else min(longest, timeout_s))


class Admission:
    """The one door that every inference request goes through. `leave` must follow each `enter`."""

    def __init__(self, residents: Residents, clock: Callable[[], float]) -> None:
        self._residents = residents
        self._clock = clock

    def enter(self) -> Admitted:
        """A request has come; it is in flight from now on, also for the drain."""
        admitted = Admitted(self._clock())
        self._residents.drain.enter(admitted.started)
        return admitted

    def pin(self, admitted: Admitted, name: str, version: str | None, *kinds: ResourceKind) -> LiveRevision:
        """Chooses who answers: by weight, or the version asked for.

        Raises UnknownModelError, NotReadyError, or Overloaded where too many are in flight.
        """
        if self._residents.drain.in_flight > MAX_IN_FLIGHT:
            raise Overloaded(f"{MAX_IN_FLIGHT} requests are being answered already", 1.0)
        route = self._residents.router.table.find(name, *kinds)
        revision = route.next() if version is None else route.of_version(version)
        revision.enter()
        admitted.revision = revision
        return revision

    def leave(self, admitted: Admitted, route: str, status: int, trace_id: str | None = None) -> None:
        """The answer is complete, or nobody waits for it any more. `trace_id` where the request is traced."""
        self._residents.drain.leave()
        if admitted.revision is not None:
            admitted.revision.counts.add(route, status, self._clock() - admitted.started, trace_id)
            admitted.revision.leave()
