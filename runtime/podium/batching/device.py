"""`Device`: run credits of one CPU set or GPU, dealt to all worker groups on it by deficit round robin.

A run holds its credit from its dispatch to its answer. Who has work waits its turn: each turn brings a group credit in
proportion to its share, and a run costs what it is expected to take, settled afterwards by what it took (Shreedhar and
Varghese, SIGCOMM 1995). Both revisions of a swap stand in the same round. Beside the runs, one batch each may be
handed over ahead of time, so that a worker that ends one finds the next.

PURE: time is an argument, in seconds. Does not know what a group is: see `Client`.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

LOWEST_SHARE = 1
"""While a group warms up."""
TURN_S = 0.001
"""Seconds of device time that a full round brings a share of 100. Runs may be far longer: rounds are added up."""
UNKNOWN_S = 0.001
"""What a run is taken to cost before one was measured."""
MAX_DEBT_S = 1.0
"""What a share can owe at most after a run that took much longer than expected."""
EPSILON_S = 1e-9
OVERDUE_FACTOR = 4.0
OVERDUE_S = 0.25
"""A run that takes longer than both lends its credit to who waits: a hung or sleeping model holds up nobody else."""


class Client(Protocol):
    """A worker group, as its device sees it."""

    def next_run_s(self, now: float) -> float | None:
        """What its next run would take, 0 where that is unknown; None: it has nothing to run, or no worker for it."""

    def start_run(self, now: float) -> "Run | None":
        """Begins that run now. None where it came to nothing after all."""


@dataclass(slots=True, eq=False)
class Share:
    """A client's place in the round."""

    client: Client
    units: int
    """Credits that one of its runs takes: CPU threads, or 1 on a GPU."""
    weight: int
    deficit_s: float = 0.0
    """What it may still spend; negative after a run that took longer than expected."""


@dataclass(slots=True, eq=False)
class Run:
    """A credit in use. Ends once."""

    share: Share
    units: int
    began: float
    expected_s: float
    is_credited: bool = True
    """False once the credit was lent to another, since the run took too long."""

    @property
    def overdue_at(self) -> float:
        """When its credit may be lent."""
        return self.began + max(OVERDUE_S, OVERDUE_FACTOR * self.expected_s)


@dataclass(slots=True)
class Device:
    """Credits of one device. `units`: threads that can run at once on a CPU; 1 for a GPU."""

    units: int
    _round: list[Share] = field(default_factory=list)
    """Everyone, who is next first."""
    _runs: list[Run] = field(default_factory=list)
    _used: int = 0
    """Units of credited runs."""
    _dealing: bool = False

    def join(self, client: Client, *, units: int, weight: int) -> Share:
        """A group comes; its runs take `units` credits each, all there are where it wants more."""
        share = Share(client, min(units, self.units), weight)
        self._round.append(share)
        return share

    def leave(self, share: Share) -> None:
        """A group goes, its runs with it."""
        self._round.remove(share)
        for run in [run for run in self._runs if run.share is share]:
            self._drop(run)

    def deal(self, now: float) -> None:
        """Starts runs as long as there are credits and somebody has work. Call after anything changed."""
        if self._dealing:
            return  # a run that came to nothing may lead back here
        self._dealing = True
        try:
            failures = 0
            while self._used < self.units and failures <= len(self._round) and (share := self._next(now)) is not None:
                if self._used + share.units > self.units:
                    break  # its turn comes when enough others have ended; nobody overtakes it
                if share.client.start_run(now) is None:
                    failures += 1
                    self._follow(share)
                elif len(self._round) > 1 and not self._can_pay(share, now):
                    self._follow(share)
        finally:
            self._dealing = False

    def end(self, run: Run, now: float) -> None:
        """A run is over: its credit is free, and its share pays what it took. `deal` follows."""
        took = max(0.0, now - run.began)
        share = run.share
        share.deficit_s = max(share.deficit_s - (took - run.expected_s) * run.units, -MAX_DEBT_S)
        self._drop(run)

    def hand_over(self, run: Run, expected_s: float, now: float) -> Run:
        """The run ended and its worker has already begun on the batch that it was given ahead: the credit stays."""
        share = run.share
        self.end(run, now)
        following = Run(share, run.units, now, expected_s or UNKNOWN_S)
        following.is_credited = run.is_credited or self._used + run.units <= self.units
        share.deficit_s = max(share.deficit_s, following.expected_s * run.units)  # it was given while nobody waited
        return self._hold(following)

    def is_contended(self, share: Share, now: float) -> bool:
        """True where another group waits for a credit: then nothing is handed over ahead, or turns would be skipped."""
        return any(other is not share and other.client.next_run_s(now) is not None for other in self._round)

    def is_wanted(self, now: float) -> bool:
        """True where a group waits for a credit."""
        return any(share.client.next_run_s(now) is not None for share in self._round)

    def lend_overdue(self, now: float) -> float | None:
        """Takes the credit from runs that are overdue while others wait. Returns when to look again, if at all."""
        credited = [run for run in self._runs if run.is_credited]
        for run in credited:
            if run.overdue_at <= now and self.is_contended(run.share, now):
                run.is_credited = False
                self._used -= run.units
        left = [run.overdue_at for run in credited if run.is_credited]
        return min((at for at in left if at > now), default=None)

    @property
    def free_units(self) -> int:
        """Credits that nobody has."""
        return self.units - self._used

    @property
    def runs(self) -> int:
        """Runs under way, credited or not."""
        return len(self._runs)

    def check_integrity(self) -> None:
        """Asserts that credits are neither lost nor made."""
        assert self._used == sum(run.units for run in self._runs if run.is_credited)
        assert 0 <= self._used <= self.units
        assert all(run.share in self._round for run in self._runs)

    def _next(self, now: float) -> Share | None:
        """Whose turn it is. Adds rounds until somebody can pay."""
        waiting: list[tuple[Share, float]] = []
        for share in self._round:
            needs_s = share.client.next_run_s(now)
            if needs_s is not None:
                waiting.append((share, (needs_s or UNKNOWN_S) * share.units))
            elif share.deficit_s > 0:
                share.deficit_s = 0.0  # who has nothing to run saves nothing up
        if not waiting:
            return None
        if len(waiting) == 1:
            share, cost_s = waiting[0]
            share.deficit_s = max(share.deficit_s, cost_s)  # nobody is there to be paid for its turn
            return share
        rounds = min(_rounds_until(share, cost_s) for share, cost_s in waiting)
        for share, _ in waiting:
            share.deficit_s += rounds * _turn_s(share)
        return next(share for share, cost_s in waiting if share.deficit_s >= cost_s - EPSILON_S)

    def _can_pay(self, share: Share, now: float) -> bool:
        """Whether its turn goes on."""
        needs_s = share.client.next_run_s(now)
        return needs_s is not None and share.deficit_s >= (needs_s or UNKNOWN_S) * share.units - EPSILON_S

    def _follow(self, share: Share) -> None:
        """Its turn is over."""
        self._round.remove(share)
        self._round.append(share)

    def hold(self, share: Share, expected_s: float, now: float) -> Run:
        """The credit of a run that is being started. Only from within `Client.start_run`."""
        return self._hold(Run(share, share.units, now, expected_s or UNKNOWN_S))

    def _hold(self, run: Run) -> Run:
        run.share.deficit_s -= run.expected_s * run.units
        self._runs.append(run)
        if run.is_credited:
            self._used += run.units
        return run

    def _drop(self, run: Run) -> None:
        self._runs.remove(run)
        if run.is_credited:
            self._used -= run.units


def _rounds_until(share: Share, cost_s: float) -> int:
    return max(0, ceil((cost_s - share.deficit_s - EPSILON_S) / _turn_s(share)))


def _turn_s(share: Share) -> float:
    return TURN_S * share.weight / 100
