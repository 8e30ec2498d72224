"""How many rows a batch may have: additive increase, multiplicative decrease towards a latency (Clipper, NSDI 2017).

It also finds where larger batches stop to pay, and remembers where memory ended. PURE.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

WINDOW = 100
"""Answers that are judged together: 99 of them shall be in time."""
BACK_OFF = 0.9


@dataclass(slots=True)
class SizeCap:
    """Most rows of the next batch."""

    limit: int
    """As configured."""
    target_s: float | None = None
    """What 99 % of the answers may take from their arrival; None: only memory makes batches smaller."""
    ceiling: int | None = None
    """Half of the smallest batch that ran out of memory."""
    rows: int = field(init=False)
    """At least 1. For reading only."""
    _rows: float = field(init=False)
    _answers: int = 0
    _late: int = 0
    _was_full: bool = False

    def __post_init__(self) -> None:
        self._rows = float(self.limit)
        self._settle()

    def _settle(self) -> None:
        self.rows = max(1, min(self.limit, int(self._rows), self.ceiling or self.limit))

    def configure(self, limit: int, target_s: float | None) -> None:
        """New settings; what was learned stays, where it still means something."""
        if limit != self.limit or target_s is None:
            self._rows = float(limit)
        self.limit, self.target_s = limit, target_s
        self._settle()

    def observe(self, rows: int, latencies_s: Sequence[float]) -> None:
        """A batch of so many rows was answered; `latencies_s` of each request, from its arrival."""
        if self.target_s is None:
            return
        self._was_full = self._was_full or rows >= self.rows
        self._answers += len(latencies_s)
        self._late += sum(latency > self.target_s for latency in latencies_s)
        if self._answers < WINDOW and self._late <= 1:
            return
        if self._late > max(1, self._answers // WINDOW):
            self._rows = max(1.0, self.rows * BACK_OFF)
        elif self._was_full:
            self._rows = min(float(self.limit), self._rows + 1)
        self._answers = self._late = 0
        self._settle()
        self._was_full = False

    def ran_out_of_memory(self, rows: int) -> None:
        """A batch of so many rows did not fit."""
        self.ceiling = max(1, min(rows // 2, self.ceiling or rows))
        self._settle()
