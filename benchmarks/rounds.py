"""Alternating rounds: every contender once, then every contender again, so that the machine's moods hit them all."""

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import httpx

from benchmarks.load import Load, WrongAnswersError
from benchmarks.peers.environments import NotToBeHad
from benchmarks.peers.server import Contender, Running, running

Point = str
"""What was measured of a contender: `c=10`, `1 MB binary`."""


@dataclass(slots=True)
class Measured:
    """All rounds of one contender."""

    name: str
    loads: dict[Point, list[Load]] = field(default_factory=dict)
    missing: str | None = None
    """Why there are no figures."""

    def rps(self, point: Point) -> float:
        """Median requests per second; 0 where there is nothing."""
        return statistics.median([load.rps for load in self.loads.get(point, [])] or [0.0])

    def p50_us(self, point: Point) -> float:
        """Median of the rounds' medians."""
        return statistics.median([load.p50_us for load in self.loads.get(point, [])] or [float("inf")])

    def row(self, cpus: str) -> Mapping[str, object]:
        """As it is written down: medians, and the range of the rounds."""
        if self.missing is not None:
            return {"server": self.name, "cpus": cpus, "missing": self.missing}
        rounds = max((len(loads) for loads in self.loads.values()), default=0)
        row: dict[str, object] = {"server": self.name, "cpus": cpus, "rounds": rounds}
        for point, loads in self.loads.items():
            rates = [load.rps for load in loads]
            row[point] = {
                "rps": round(statistics.median(rates)),
                "range": [round(min(rates)), round(max(rates))],
                "p50_us": round(statistics.median(load.p50_us for load in loads)),
                "p99_us": round(statistics.median(load.p99_us for load in loads)),
                "p999_us": round(statistics.median(load.p999_us for load in loads)),
            }
        return row


Measure = Callable[[Running], Iterable[tuple[Point, Load]]]


def alternate(
    contenders: Sequence[Contender],
    measure: Measure,
    rounds: int,
    cpus: set[int],
    fewer: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Measured]:
    """Each contender started anew in each round, on those processors. One that fails gets a row that says why.

    `fewer`: rounds of those that take part in the first ones alone, since no figure of theirs is near a bar.
    """
    seen = {contender.name: Measured(contender.name) for contender in contenders}
    for turn in range(rounds):
        for contender in contenders:
            measured = seen[contender.name]
            if turn >= fewer.get(contender.name, rounds):
                continue
            if measured.missing is None:
                _one(contender, measure, measured, cpus)
            sys.stdout.write(f"  round {turn + 1} of {rounds}, {_last(measured)}\n")
            sys.stdout.flush()
    return seen


def _one(contender: Contender, measure: Measure, measured: Measured, cpus: set[int]) -> None:
    try:
        with running(contender, cpus) as server:
            for point, load in measure(server):
                measured.loads.setdefault(point, []).append(load)
    except (NotToBeHad, RuntimeError, WrongAnswersError, httpx.HTTPError) as error:
        measured.missing = f"{type(error).__name__}: {error}"
        sys.stdout.write(f"  MISSING {contender.name}: {error}\n")


def _last(measured: Measured) -> str:
    if measured.missing is not None:
        return f"{measured.name}: missing"
    points = ", ".join(f"{point} {loads[-1].rps:.0f}/s" for point, loads in measured.loads.items() if loads)
    return f"{measured.name}: {points}"
