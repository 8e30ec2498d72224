"""What the user's annotations do to a rollout. PURE.

Each names the revision that it is about. While it stands, the word holds; taken away, or naming another revision, it
holds no more: nothing of it is kept anywhere else.
"""

from dataclasses import replace

from podium_crds.reasons import Reason
from podium_operator.state import Desired, Observed, Problem


def obeyed(observed: Observed, desired: Desired) -> Desired:
    """The same, with a target that the user rolled back or aborted counted as given up.

    A complete rollout is not aborted, and without anything to go back to the target stays.
    """
    target, hand = desired.target, desired.hand
    if target.quarantine is not None:
        return desired
    if hand.rollback == target.name and instead(observed, desired) is not None:
        return replace(desired, target=replace(target, quarantine=_problem("rolled back", "rollback", desired)))
    if hand.abort == target.name and desired.current not in (None, target.name):
        return replace(desired, target=replace(target, quarantine=_problem("aborted", "abort", desired)))
    return desired


def instead(observed: Observed, desired: Desired) -> str | None:
    """What serves instead of a target that is rolled back: what the user names, else what serves now or served last.

    A revision that never was all that served is nothing to go back to by itself.
    """
    target = desired.target.name
    usable = {name: known for name, known in observed.revisions.items() if known.quarantine is None and name != target}
    if desired.hand.rollback_to:
        return desired.hand.rollback_to if desired.hand.rollback_to in usable else None
    if desired.current in usable:
        return desired.current
    served = [(known.served_at, known.ordinal, name) for name, known in usable.items() if known.served_at is not None]
    return max(served)[2] if served else None


def _problem(done: str, annotation: str, desired: Desired) -> Problem:
    name = desired.target.name
    return Problem(
        Reason.ROLLED_BACK,
        f"{name} was {done} by hand: annotation podium.dev/{annotation} names it. Remove the annotation to serve it "
        "again, or change the spec",
    )
