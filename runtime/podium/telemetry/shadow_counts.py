"""What became of copies of requests for one candidate, as plain integers."""

from collections import Counter
from enum import StrEnum

from podium_crds.shadow import MAX_DIFFERENCE_CHARS, Shadow, ShadowReport


class ShadowOutcome(StrEnum):
    """What became of the copy of a request."""

    MATCHED = "matched"
    MISMATCHED = "mismatched"
    FAILED = "failed"
    DROPPED = "dropped"


class ShadowCounts:
    """Copies of requests that a candidate saw, by what came of them. One thread only."""

    __slots__ = ("_since", "_worst", "totals", "worst")

    def __init__(self) -> None:
        self.totals: Counter[ShadowOutcome] = Counter()
        self.restart()

    def restart(self) -> None:
        """What the report says begins anew; the totals go on."""
        self._since: Counter[ShadowOutcome] = Counter()
        self._worst = 0.0
        self.worst = ""

    def compared(self, *, differs: bool) -> None:
        """An answer was held against the one that the client got."""
        self._add(ShadowOutcome.MISMATCHED if differs else ShadowOutcome.MATCHED)

    def failed(self) -> None:
        """The candidate had no answer, by its own fault."""
        self._add(ShadowOutcome.FAILED)

    def dropped(self) -> None:
        """The copy says nothing."""
        self._add(ShadowOutcome.DROPPED)

    def note(self, factor: float, what: str) -> bool:
        """A difference that exceeds the tolerance so many times. True for the first since the restart."""
        is_first = not self.worst
        if is_first or factor > self._worst:
            self._worst, self.worst = factor, what[:MAX_DIFFERENCE_CHARS]
        return is_first

    def report(self, policy: Shadow | None) -> ShadowReport:
        """Since the restart."""
        since = self._since
        return ShadowReport(
            policy=policy,
            compared=since[ShadowOutcome.MATCHED] + since[ShadowOutcome.MISMATCHED],
            mismatched=since[ShadowOutcome.MISMATCHED],
            failed=since[ShadowOutcome.FAILED],
            dropped=since[ShadowOutcome.DROPPED],
            worst=self.worst,
        )

    def _add(self, outcome: ShadowOutcome) -> None:
        self.totals[outcome] += 1
        self._since[outcome] += 1
