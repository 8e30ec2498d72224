"""What the ConfigMap of a pool says and what a pod is pushed, compiled from records, and whether a pod has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podium_crds.assignment import Assignment, Generation, Report, RevisionState, TrafficTarget
from podium_crds.compile import compile_assignment, drain_policy
from podium_crds.shadow import Shadow
from podium_operator.state import Desired, KnownRevision, ObservedPod, Pool, highest_generation


@dataclass(frozen=True, slots=True)
class Sources:
    """What assignments are compiled from."""

    desired: Desired
    known: Mapping[str, KnownRevision]
    generation: Generation


def divided(assignment: Assignment, candidate: str, weight: int, shadow: Shadow | None) -> Assignment:
    """The same, with that percentage of the requests for the candidate, and copies of others as `shadow` says. Only
    ever pushed, never written."""
    promoted = assignment.promoted
    assert promoted is not None, "a candidate stands beside what is promoted"
    traffic = (
        TrafficTarget(revision=promoted, weight=100 - weight),
        TrafficTarget(revision=candidate, weight=weight),
    )
    return assignment.model_copy(update={"traffic": traffic, "shadow": shadow})


def compiled(
    sources: Sources, pool: str, written: Assignment | None, promoted: str, beside: Sequence[str]
) -> Assignment:
    """The assignment that promotes one revision and holds others beside it without traffic.

    A revision whose record is lost is taken over from the ConfigMap as `written`. Raises AssignmentTooLargeError.
    """
    names = (promoted, *beside)
    desired = sources.desired
    assignment = compile_assignment(
        desired.owner.resource,
        [sources.known[name].record for name in names if name in sources.known],
        promoted=promoted if promoted in sources.known else None,
        warm=[name for name in beside if name in sources.known],
        generation=sources.generation,
        pool=pool,
        drain=drain_policy(desired.rollout),
        load_timeout_seconds=desired.rollout.load_timeout_seconds,
    )
    if all(name in sources.known for name in names):
        return assignment
    found = [assignment.revision(name) or (written.revision(name) if written else None) for name in names]
    taken = {
        "revisions": tuple(revision for revision in found if revision is not None),
        "traffic": (TrafficTarget(revision=promoted, weight=100),),
        "promoted": promoted,
    }
    return assignment.model_copy(update=taken)


def next_generation(pools: tuple[Pool, ...], lease_transitions: int) -> Generation | None:
    """Above everything written or reported. None: a newer leader has been here, so this one must not act."""
    highest = highest_generation(pools)
    if highest.transitions > lease_transitions:
        return None
    return Generation(transitions=lease_transitions, sequence=highest.sequence + 1)


def same_content(left: Assignment | None, right: Assignment) -> bool:
    """Whether both ask the same of a pod, whatever their generation."""
    if left is None:
        return False
    fixed = {"generation": Generation(), "pod_uid": None}
    return left.model_copy(update=fixed) == right.model_copy(update=fixed)


def has_taken(pod: ObservedPod, wanted: Assignment, at_least: Generation) -> bool:
    """Whether the pod's report shows that it holds exactly these revisions, at this generation or a later one."""
    report = pod.report
    if report is None or report.applied is None or report.applied < at_least:
        return False
    return report.promoted == wanted.promoted and assigned(report) == {r.name for r in wanted.revisions}


def assigned(report: Report) -> frozenset[str]:
    """Revisions that the pod was told to hold; by a release that does not say, those it holds and keeps."""
    if report.assigned is not None:
        return frozenset(report.assigned)
    return frozenset(held.name for held in report.revisions if held.state is not RevisionState.DRAINING)


def settled(pool: Pool) -> bool:
    """Whether every running pod has applied the ConfigMap as it is. What a pod applied is on its disk before it says
    so, and the higher generation wins when its container restarts: nothing waits for the mounted copy, which may lag by
    more than a minute (docs/decisions/0005)."""
    if pool.assignment is None:
        return False
    written = pool.assignment.generation
    for pod in pool.pods:
        if pod.running_since is None or pod.terminating:
            continue
        report = pod.report
        if report is None or report.applied is None or report.applied < written:
            return False
    return True
