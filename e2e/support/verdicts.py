"""What the books must show, each rule with a message that holds the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from e2e.probers.ledger import Entry, Ledger

from . import oip


def nothing_failed(ledger: Ledger) -> None:
    """Every request sent got a 200."""
    assert ledger.lost == 0, f"lost {ledger.lost}\n{ledger.told()}"
    assert ledger.failed == [], f"{len(ledger.failed)} failed\n{ledger.told()}"


def bodies_match(ledger: Ledger, scales: Mapping[str, float]) -> None:
    """Every 200 carries the number of the revision that it names."""
    wrong = ledger.mismatched(oip.number, scales)
    told = "\n".join(entry.told() for entry in wrong[:10])
    assert wrong == [], f"{len(wrong)} answers do not match their revision; expected {dict(scales)}\n{told}"


def answered_by(ledger: Ledger, revisions: Iterable[str]) -> None:
    """Exactly these revisions answered, each at least once."""
    assert set(ledger.by_revision()) == set(revisions), f"answered: {dict(ledger.by_revision())}, expected {revisions}"


def never_back(ledger: Ledger, moment: float, revision: str) -> None:
    """From `moment` on, no request is answered by any revision but this one."""
    late = [entry for entry in ledger.succeeded if entry.sent_at > moment and entry.revision != revision]
    told = "\n".join(entry.told() for entry in late[:10])
    assert late == [], f"{len(late)} answers of another revision than {revision} after {moment:.3f}\n{told}"


def only(failed: Iterable[Entry], allowed: Iterable[Entry], why: str) -> None:
    """No request failed but those that may."""
    permitted = {entry.number for entry in allowed}
    others = [entry for entry in failed if entry.number not in permitted]
    told = "\n".join(entry.told() for entry in others[:10])
    assert others == [], f"{len(others)} failures that nothing excuses ({why})\n{told}"
