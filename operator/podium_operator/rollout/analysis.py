"""Whether a new revision does as well as the one it replaces, from what pods counted of both. PURE.

Only answers since traffic was last divided otherwise are compared. Too few of them say nothing: the step is held, since
no data is no proof. Latency is compared by the upper bounds of fine buckets, each 15 % wider than the one before, so a
ratio is exact to that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from podium_crds.assignment import COMPARISON_BOUNDS_S, Counts
from podium_crds.rollout import Analysis
from podium_operator.state import ObservedPod

P99 = 0.99


class Finding(StrEnum):
    """What the counts say."""

    PASSING = "Passing"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"


@dataclass(frozen=True, slots=True)
class Analysed:
    """A finding, and why. Two passes with the same finding say the same, unless it failed: then with the figures."""

    finding: Finding
    message: str


def analysed(analysis: Analysis | None, pods: Iterable[ObservedPod], new: str, old: str) -> Analysed:
    """How `new` compares with `old` over these pods."""
    if analysis is None or (analysis.max_error_percent is None and analysis.max_p99_latency_percent is None):
        return Analysed(Finding.PASSING, "")
    reports = list(pods)
    candidate, serving = _total(reports, new), _total(reports, old)
    fewest = min(_answers(candidate), _answers(serving))
    if _answers(candidate) < analysis.min_requests:
        return _too_few(analysis, new)
    if analysis.max_error_percent is not None:
        percent = 100 * candidate.failed / _answers(candidate)
        if percent > analysis.max_error_percent:
            return Analysed(
                Finding.FAILED,
                f"{percent:.1f} % of {_answers(candidate)} requests to {new} failed, at most "
                f"{analysis.max_error_percent} % are allowed",
            )
    if analysis.max_p99_latency_percent is not None:
        if fewest < analysis.min_requests:
            return _too_few(analysis, old)
        theirs, ours = quantile(serving, P99), quantile(candidate, P99)
        if ours > theirs * analysis.max_p99_latency_percent / 100:
            return Analysed(
                Finding.FAILED,
                f"p99 of {new} is {_ms(ours)} over {_answers(candidate)} requests, that of {old} {_ms(theirs)}: "
                f"at most {analysis.max_p99_latency_percent} % of it is allowed",
            )
    return Analysed(Finding.PASSING, f"{new} is within the limits")


def together(said: Iterable[Analysed]) -> Analysed:
    """One finding of several: what failed before what is not known, and that before what is well."""
    found = list(said)
    for finding in (Finding.FAILED, Finding.INCONCLUSIVE):
        for each in found:
            if each.finding is finding:
                return each
    return Analysed(Finding.PASSING, "; ".join(each.message for each in found if each.message))


def quantile(counts: Counts, share: float) -> float:
    """Seconds: upper bound of the bucket in which that share of the answers is reached; infinite above all bounds."""
    buckets = counts.latency_buckets
    rank = share * buckets[-1]
    for bound, seen in zip(COMPARISON_BOUNDS_S, buckets, strict=False):
        if seen >= rank:
            return bound
    return float("inf")


def _total(pods: list[ObservedPod], revision: str) -> Counts:
    found = [held.shared_counts for pod in pods if (held := pod.holds(revision)) is not None]
    columns = zip(*(counts.latency_buckets for counts in found if counts.latency_buckets), strict=True)
    return Counts(
        succeeded=sum(counts.succeeded for counts in found),
        failed=sum(counts.failed for counts in found),
        latency_buckets=tuple(sum(column) for column in columns) or (0,) * (len(COMPARISON_BOUNDS_S) + 1),
    )


def _answers(counts: Counts) -> int:
    return counts.succeeded + counts.failed


def _too_few(analysis: Analysis, revision: str) -> Analysed:
    message = f"{revision} has answered fewer than {analysis.min_requests} requests in this step"
    return Analysed(Finding.INCONCLUSIVE, message)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
