"""Who is copied to whom in one resource: attaches the copies where they are asked for, and takes them off again."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from podium.serving.revisions.lifecycle import HostedRevision
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.shadow import Mirror
from podium_crds.shadow import Shadow


class Shadowing:
    """At most one candidate at a time. One event loop's thread; `close` when the resource ends."""

    def __init__(self, room_bytes: int, clock: Callable[[], float]) -> None:
        """`room_bytes`: of requests and answers that may be kept for copies. `clock`: monotonic seconds."""
        self._room_bytes = room_bytes
        self._clock = clock
        self._candidate: HostedRevision | None = None
        self._mirror: Mirror | None = None
        self._sources: tuple[LiveRevision, ...] = ()
        self._behind: ExitStack | None = None
        """Holds back the workers that the candidate alone has."""

    def policy_of(self, hosted: HostedRevision) -> Shadow | None:
        """What is in force for a revision as the candidate; None where it gets no copies."""
        return self._mirror.policy if self._mirror is not None and hosted is self._candidate else None

    def settle(
        self, policy: Shadow | None, candidate: HostedRevision | None, serving: Sequence[HostedRevision]
    ) -> None:
        """From now on what `serving` answers is copied to the candidate, which may be among them. Idempotent.

        A policy without a candidate that can answer copies nothing.
        """
        if policy is None or candidate is None or candidate.live is None:
            self.close()
            return
        mirror = self._mirror
        if mirror is None or mirror.policy != policy or mirror.candidate is not candidate.live:
            self.close()
            candidate.live.shadow.restart()
            mirror = self._mirror = Mirror(policy, candidate.live, self._room_bytes, self._clock)
            self._candidate = candidate
        sources = tuple(each.live for each in serving if each is not candidate and each.live is not None)
        self._attach(sources, mirror)
        self._hold_back(candidate, is_idle=candidate not in serving)

    def close(self) -> None:
        """Nothing is copied any more. Idempotent."""
        self._attach((), None)
        if self._mirror is not None:
            self._mirror.close()
        if self._behind is not None:
            self._behind.close()
        self._mirror = self._candidate = self._behind = None

    def _attach(self, sources: tuple[LiveRevision, ...], mirror: Mirror | None) -> None:
        for source in self._sources:
            source.mirror = None
        for source in sources:
            source.mirror = mirror
        self._sources = sources

    def _hold_back(self, candidate: HostedRevision, *, is_idle: bool) -> None:
        """A candidate that answers nobody comes last on its device; one with a share is measured as it would serve."""
        if not is_idle and self._behind is not None:
            self._behind.close()
            self._behind = None
        elif is_idle and self._behind is None:
            self._behind = ExitStack()
            for shared in candidate.held.values():
                if shared.is_candidate and shared.group is not None:
                    self._behind.enter_context(shared.group.behind())
