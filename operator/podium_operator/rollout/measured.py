"""Whether what a Prometheus server says of a new revision is well. PURE: the question is asked elsewhere."""

from dataclasses import dataclass

from podium_crds.promql import PrometheusCheck
from podium_operator.rollout.analysis import Analysed, Finding
from podium_operator.state import Desired, Measurement


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and whom."""

    address: str
    query: str


def question(desired: Desired) -> Question | None:
    """What this pass should ask. None: nothing is judged now."""
    check = _check(desired)
    if check is None or desired.canary is None or not desired.canary.weight:
        return None
    if desired.target.quarantine is not None or desired.current in (None, desired.target.name):
        return None
    resource = desired.owner.resource
    query = check.query
    for name, value in (
        ("revision", desired.target.name),
        ("previous", desired.current or ""),
        ("name", resource.name),
        ("namespace", resource.namespace),
    ):
        query = query.replace("{{" + name + "}}", value)  # names of objects: nothing in them ends a PromQL string
    return Question(check.address, query)


def judged(desired: Desired, measured: Measurement | None) -> Analysed:
    """What the answer says of the target. A server that is away, or has no number, holds the step."""
    check = _check(desired)
    if check is None:
        return Analysed(Finding.PASSING, "")
    if measured is None or measured.value is None:
        why = measured.problem if measured is not None else "it has not been asked yet"
        return Analysed(Finding.INCONCLUSIVE, f"Prometheus says nothing of {desired.target.name}: {why}")
    found = f"the query gives {measured.value:g} for {desired.target.name}"
    if check.max_value is not None and measured.value > float(check.max_value):
        return Analysed(Finding.FAILED, f"{found}, at most {check.max_value} is allowed")
    if check.min_value is not None and measured.value < float(check.min_value):
        return Analysed(Finding.FAILED, f"{found}, at least {check.min_value} is needed")
    return Analysed(Finding.PASSING, "the query gives what is allowed")


def _check(desired: Desired) -> PrometheusCheck | None:
    return desired.rollout.analysis.prometheus if desired.rollout.analysis is not None else None
