"""ControllerRevisions: which are recorded, pinned, released from quarantine and dropped."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from podium_crds.assignment import LOADED_STATES
from podium_crds.rollout import RolloutStrategy
from podium_operator.rollout.actions import Action, NoteServed, PinDigests, PruneRevision, RecordRevision, Release
from podium_operator.rollout.failures import NO_ROOM
from podium_operator.state import Desired, KnownRevision, Observed


def record(observed: Observed, desired: Desired, goal: str) -> tuple[Action, ...]:
    """Record the target before anything is made from it."""
    if goal != desired.target.name or desired.target.recorded:
        return ()
    newest = max((known.ordinal for known in observed.revisions.values()), default=0)
    return (RecordRevision(desired.target, newest + 1),)


def releases(observed: Observed, desired: Desired) -> tuple[Action, ...]:
    """Quarantines that end: the spec asks for something else now, or the user asked for another try."""
    return tuple(
        Release(known)
        for known in _by_ordinal(observed)
        if known.quarantine is not None
        and (
            known.name != desired.target.name
            or known.retry_token != desired.retry_token
            or _has_another_way(known, desired)
        )
        and not _still_promoted(observed, known)
    )


def _has_another_way(known: KnownRevision, desired: Desired) -> bool:
    """Whether pods had no room for it beside what they served, and it need not be there any more."""
    assert known.quarantine is not None, "asked of what failed"
    was_in_place = known.judged_under == RolloutStrategy.IN_PLACE
    return was_in_place and known.quarantine.reason in NO_ROOM and desired.rollout.strategy != known.judged_under


def _still_promoted(observed: Observed, known: KnownRevision) -> bool:
    return any(pool.promoted == known.name for pool in observed.pools)


def pins(observed: Observed) -> tuple[Action, ...]:
    """Digests that a finished load resolved and no record names yet."""
    found: list[Action] = []
    for known in _by_ordinal(observed):
        resolved = {name: digest for name, digest in _resolved(observed, known) if name not in _pinned(known)}
        if resolved:
            found.append(PinDigests(known, resolved))
    return tuple(found)


def served(observed: Observed, desired: Desired, now: datetime) -> tuple[Action, ...]:
    """Of a rollout that is complete: that its revision has served, last of all."""
    target = observed.revisions.get(desired.target.name)
    if target is None or pins(observed):
        return ()  # one write to a record in a pass: the next would find it changed
    others = [known.served_at for known in observed.revisions.values() if known.name != target.name]
    last = max((time for time in others if time is not None), default=None)
    if target.served_at is not None and (last is None or last <= target.served_at):
        return ()
    return (NoteServed(target, now),)


def _pinned(known: KnownRevision) -> Mapping[str, str]:
    in_spec = {m.name: d for m in known.record.members if (d := m.definition.source.digest) is not None}
    return {**known.record.digests, **in_spec}


def _resolved(observed: Observed, known: KnownRevision) -> Iterator[tuple[str, str]]:
    """Digests by member, of pods that loaded the revision; the last pod in name order first, so the first wins."""
    pods = sorted((pod for pool in observed.pools for pod in pool.pods), key=lambda pod: pod.name, reverse=True)
    members = {member.name for member in known.record.members if member.files is None}
    for pod in pods:
        held = pod.holds(known.name)
        if held is None or held.state not in LOADED_STATES:
            continue
        for member in held.members:
            if member.digest is not None and member.name in members:
                yield member.name, member.digest


def prune(observed: Observed, desired: Desired) -> tuple[Action, ...]:
    """Records beyond the history limit that nothing refers to, those that never served first, then the oldest."""
    referred = {desired.target.name, desired.current}
    for pool in observed.pools:
        if pool.assignment is not None:
            referred |= {revision.name for revision in pool.assignment.revisions}
    idle = [known for known in _by_ordinal(observed) if known.name not in referred and known.quarantine is None]
    idle.sort(key=lambda known: known.served_at is not None)
    excess = len(idle) - desired.rollout.revision_history_limit
    return tuple(PruneRevision(known) for known in idle[: max(0, excess)])


def _by_ordinal(observed: Observed) -> list[KnownRevision]:
    return sorted(observed.revisions.values(), key=lambda known: (known.ordinal, known.name))
