"""The books: what follows from entries, and that lines survive the pipe."""

from __future__ import annotations

import math

import pytest
from e2e.probers.ledger import Entry, Ledger, Summary, parse_line


def entry(
    number: int, *, sent: float = 0.0, took: float = 0.1, status: int | None = 200, error: str | None = None
) -> Entry:
    """An entry of the client c."""
    return Entry(number, "c", "request", sent, sent + took, None if error else status, "one", None, "", error)


def test_lost_is_what_was_sent_and_never_booked() -> None:
    assert Ledger([entry(1), entry(2, error="reset: gone")], Summary(sent=3, connections=1)).lost == 1
    assert Ledger([entry(1)]).lost is None


def test_failed_is_every_outcome_but_200() -> None:
    entries = [entry(1), entry(2, status=503), entry(3, error="timeout: 1 s"), entry(4, status=404)]
    ledger = Ledger(entries)
    assert [e.number for e in ledger.failed] == [2, 3, 4]
    assert ledger.by_outcome() == {"200": 1, "503": 1, "timeout": 1, "404": 1}


def test_quantiles_are_nearest_rank() -> None:
    ledger = Ledger([entry(n, took=float(n)) for n in range(1, 101)])
    assert ledger.quantile_s(0.5) == 50
    assert ledger.quantile_s(0.99) == 99
    assert ledger.quantile_s(1.0) == 100
    assert math.isnan(Ledger().quantile_s(0.5))


def test_in_flight_is_judged_at_one_moment() -> None:
    ledger = Ledger([entry(1, sent=1.0, took=2.0), entry(2, sent=2.5, took=0.1), entry(3, sent=4.0)])
    assert [e.number for e in ledger.in_flight_at(2.0)] == [1]
    assert [e.number for e in ledger.between(2.0, 4.0).entries] == [2]


def test_longest_silence_is_between_successes_only() -> None:
    entries = [entry(1, sent=0.0), entry(2, sent=1.0, status=503), entry(3, sent=5.0)]
    assert Ledger(entries).longest_silence_s() == pytest.approx(5.0)


def test_lines_survive_the_pipe() -> None:
    for line in (entry(7, error="reset: x"), Summary(sent=3, connections=2)):
        assert parse_line(line.line()) == line
    with pytest.raises(ValueError, match="not a line"):
        parse_line("{}")
