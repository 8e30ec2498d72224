"""Whether a new revision answers as the one it replaces, from copies of requests that pods had it answer. PURE.

Copies are made inside one pod, where both revisions are loaded: in place. A surge has them in different pods.
"""

from collections.abc import Iterable

from podium_crds.assignment import PURE_FORWARDS
from podium_crds.parity import Parity
from podium_crds.revision import RevisionRecord
from podium_crds.rollout import RolloutStrategy
from podium_crds.shadow import OutputTolerance, Shadow, ShadowReport
from podium_crds.status import ShadowStatus
from podium_operator.rollout.analysis import Analysed, Finding
from podium_operator.state import Desired, KnownRevision, ObservedPod


def policy(desired: Desired) -> Shadow | None:
    """What pods are told to copy to the target. None: nothing is asked for, or nothing may be copied."""
    parity = asked(desired)
    if parity is None or barred(parity, desired.target.record):
        return None
    return Shadow(
        revision=desired.target.name,
        percent=parity.shadow_percent,
        tolerance=float(parity.tolerance),
        outputs=tuple(
            OutputTolerance(name=each.name, absolute=float(each.absolute), relative=float(each.relative))
            for each in parity.outputs
        ),
    )


def asked(desired: Desired) -> Parity | None:
    """What the spec asks for."""
    return desired.rollout.analysis.parity if desired.rollout.analysis is not None else None


def barred(parity: Parity, record: RevisionRecord) -> str:
    """Why no request may be run twice, naming the member; empty where it may. Members of pipelines are known here
    alone."""
    if parity.allow_side_effects:
        return ""
    for member in record.members:
        if member.remote is not None:
            return f"its model {member.name} runs in other pods, which would answer every copy, too"
        if not member.definition.idempotent and member.definition.engine not in PURE_FORWARDS:
            return f"its model {member.name} is not idempotent"
    return ""


def compared(desired: Desired, serving: KnownRevision | None, pods: Iterable[ObservedPod]) -> Analysed:
    """What the copies say of the target. Too few of them hold the step."""
    parity, new = asked(desired), desired.target
    if parity is None:
        return Analysed(Finding.PASSING, "")
    if _surges(desired):
        if serving is not None and serving.record.hashes.load == new.record.hashes.load:
            return Analysed(Finding.PASSING, "the same models in other pods")
        return Analysed(
            Finding.INCONCLUSIVE, "answers are compared in pods that hold both revisions, and in a surge no pod does"
        )
    if why := barred(parity, new.record):
        return Analysed(
            Finding.INCONCLUSIVE,
            f"requests are not copied to {new.name}: {why}; rollout.analysis.parity.allowSideEffects: true allows it",
        )
    found = total(pods, new.name)
    judged, wrong = found.compared + found.failed, found.mismatched + found.failed
    if judged < parity.min_compared:
        return Analysed(
            Finding.INCONCLUSIVE, f"fewer than {parity.min_compared} answers of {new.name} were compared in this step"
        )
    percent = 100 * wrong / judged
    if percent > parity.max_mismatch_percent:
        return Analysed(
            Finding.FAILED,
            f"{wrong} of {judged} answers of {new.name} ({percent:.1f} %) are not those of what serves, at most "
            f"{parity.max_mismatch_percent} % may differ: {found.worst}",
        )
    return Analysed(Finding.PASSING, f"{new.name} answers as what serves")


def told(desired: Desired, pods: Iterable[ObservedPod]) -> ShadowStatus | None:
    """The counts for status, in coarse steps, so that a rollout costs a bounded number of writes."""
    if policy(desired) is None or _surges(desired):
        return None
    found = total(pods, desired.target.name)
    return ShadowStatus(
        compared=_coarse(found.compared),
        mismatched=_coarse(found.mismatched),
        failed=_coarse(found.failed),
        dropped=_coarse(found.dropped),
        worst=found.worst,
    )


def total(pods: Iterable[ObservedPod], revision: str) -> ShadowReport:
    """Over all pods; the worst difference of the first pod in order that has one."""
    rows = [row for pod in pods if (row := pod.holds(revision)) is not None]
    found = [row.shadow for row in rows if row.shadow is not None]
    return ShadowReport(
        compared=sum(report.compared for report in found),
        mismatched=sum(report.mismatched for report in found),
        failed=sum(report.failed for report in found),
        dropped=sum(report.dropped for report in found),
        worst=next((report.worst for report in found if report.worst), ""),
    )


def _surges(desired: Desired) -> bool:
    return desired.chosen is not None and desired.chosen.resolved is RolloutStrategy.SURGE


def _coarse(count: int) -> int:
    """Its first digit, the others 0."""
    unit = int("1" + "0" * (len(str(count)) - 1))
    return count - count % unit
