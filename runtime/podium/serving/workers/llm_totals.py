"""What an instance's language model engine has measured in all its lives."""

from podium.ipc.llm_stats import LlmStats


class LlmTotals:
    """Counts never fall, whatever dies; gauges are those of the present life."""

    def __init__(self) -> None:
        self._before = LlmStats()
        self._present: LlmStats | None = None
        self._is_known = False

    def take(self, stats: LlmStats) -> None:
        """What the present life says. Histograms of other bounds than ours are believed in nothing."""
        if stats.is_sound:
            self._present = stats
            self._is_known = True

    def end_life(self) -> None:
        """The process is gone, and with it what it held."""
        if self._present is not None:
            self._before = self._before.plus(self._present.of_the_dead())
            self._present = None

    def read(self) -> LlmStats | None:
        """All lives together; None where no life ever said anything, as with engines of other kinds."""
        if not self._is_known:
            return None
        return self._before if self._present is None else self._before.plus(self._present)


def added_up(totals: "list[LlmTotals]") -> LlmStats | None:
    """Of several instances; None where none has anything to say."""
    known = [stats for total in totals if (stats := total.read()) is not None]
    if not known:
        return None
    result = LlmStats()
    for stats in known:
        result = result.plus(stats)
    return result
