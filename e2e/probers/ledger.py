"""Every request and what became of it, and what may be concluded from that.

The rule of the books: sent = answered + failed. Whatever is left over was lost, and is as bad as a failure.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise

OK = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `number` is the input that was sent; times are seconds since the epoch."""

    number: int
    client: str
    kind: str
    """`request` (open loop) or `long` (back to back)."""
    sent_at: float
    done_at: float
    status: int | None = None
    revision: str | None = None
    retry_after: str | None = None
    body: str = ""
    error: str | None = None
    """How the request ended where no answer came; None where one did."""

    @property
    def answered(self) -> bool:
        """Whether a complete answer of any status came back."""
        return self.error is None

    @property
    def ok(self) -> bool:
        """Whether the answer was a 200."""
        return self.answered and self.status == OK

    @property
    def seconds(self) -> float:
        """From sending to the last byte, or to the failure."""
        return self.done_at - self.sent_at

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps({"entry": asdict(self)}, separators=(",", ":"))

    def told(self) -> str:
        """For a person: what went wrong, or which revision answered."""
        outcome = self.error or f"{self.status} by {self.revision}"
        took = f"took {self.seconds * 1e3:.0f} ms"
        return f"#{self.number} {self.client} sent {self.sent_at:.3f} {took}: {outcome} {self.body[:200]}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What the sending process counted on its own: the other side of the books."""

    sent: int
    connections: int

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps({"summary": asdict(self)}, separators=(",", ":"))


def parse_line(line: str) -> Entry | Summary:
    """The inverse of both `line` methods; raises ValueError for anything else."""
    match json.loads(line):
        case {"entry": dict(fields)}:
            return Entry(**fields)
        case {"summary": dict(fields)}:
            return Summary(**fields)
        case _:
            raise ValueError(f"not a line of a ledger: {line[:200]!r}")


Numbers = Callable[[str], float]
"""Takes the number out of an answer's body; raises ValueError, KeyError, IndexError or TypeError without one."""


@dataclass(slots=True)
class Ledger:
    """Entries in the order in which they were done."""

    entries: list[Entry] = field(default_factory=list)
    summary: Summary | None = None
    """None until the sending process has ended in order."""

    @property
    def lost(self) -> int | None:
        """Requests sent of which nothing is known; None while the books are open."""
        return None if self.summary is None else self.summary.sent - len(self.entries)

    @property
    def failed(self) -> list[Entry]:
        """No answer, or an answer that is no 200."""
        return [entry for entry in self.entries if not entry.ok]

    @property
    def succeeded(self) -> list[Entry]:
        """Answers with 200."""
        return [entry for entry in self.entries if entry.ok]

    def mismatched(self, number: Numbers, scales: Mapping[str, float]) -> list[Entry]:
        """Answers whose number is not input x scale of the revision they name, or that name none of `scales`."""
        return [entry for entry in self.succeeded if not _matches(entry, number, scales)]

    def by_revision(self) -> Counter[str]:
        """How many requests each revision answered with 200."""
        return Counter(entry.revision or "" for entry in self.succeeded)

    def by_outcome(self) -> Counter[str]:
        """How many requests ended how: `200`, `503`, `reset`, ..."""
        return Counter(str(e.status) if e.error is None else e.error.partition(":")[0] for e in self.entries)

    def between(self, start: float, end: float) -> Ledger:
        """Entries sent within [start, end)."""
        return Ledger([entry for entry in self.entries if start <= entry.sent_at < end])

    def in_flight_at(self, moment: float) -> list[Entry]:
        """Entries sent but not done at that moment."""
        return [entry for entry in self.entries if entry.sent_at <= moment <= entry.done_at]

    def of(self, kind: str) -> Ledger:
        """Entries of one kind."""
        return Ledger([entry for entry in self.entries if entry.kind == kind])

    def quantile_s(self, quantile: float) -> float:
        """Seconds within which that share of the successes was answered (nearest rank); NaN where there are none."""
        seconds = sorted(entry.seconds for entry in self.succeeded)
        if not seconds:
            return float("nan")
        return seconds[max(0, math.ceil(quantile * len(seconds)) - 1)]

    def longest_silence_s(self) -> float:
        """The longest time in which no request succeeded."""
        done = sorted(entry.done_at for entry in self.succeeded)
        return max((later - earlier for earlier, later in pairwise(done)), default=float("inf"))

    def told(self) -> str:
        """A few lines for a person."""
        sent = "?" if self.summary is None else str(self.summary.sent)
        lines = [
            f"sent {sent}, outcomes {dict(self.by_outcome())}, lost {self.lost}",
            f"by revision {dict(self.by_revision())}",
            f"p50 {self.quantile_s(0.5) * 1e3:.1f} ms, p99 {self.quantile_s(0.99) * 1e3:.1f} ms",
        ]
        return "\n".join([*lines, *_first(self.failed)])


def _matches(entry: Entry, number: Numbers, scales: Mapping[str, float]) -> bool:
    scale = scales.get(entry.revision or "")
    if scale is None:
        return False
    try:
        return number(entry.body) == entry.number * scale
    except (ValueError, KeyError, IndexError, TypeError):
        return False


def _first(entries: Iterable[Entry], limit: int = 10) -> list[str]:
    told = [f"  {entry.told()}" for entry in entries]
    return told if len(told) <= limit else [*told[:limit], f"  ... and {len(told) - limit} more"]
