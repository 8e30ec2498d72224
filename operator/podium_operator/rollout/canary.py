"""The steps of a rollout: which share of the requests the new revision should have now, and what is waited for. PURE.

Where a rollout stands is in status (step, weight, since when), so that an operator that dies goes on at the same step.
In place, every pod divides its requests by the exact weight; in a surge the share is that of the pods.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from podium_crds.assignment import LOADED_STATES
from podium_crds.rollout import RolloutStep, RolloutStrategy
from podium_crds.status import CanaryStatus, ResolvedStrategy
from podium_operator.rollout import measured, parity, weights
from podium_operator.rollout.analysis import Analysed, Finding, analysed, together
from podium_operator.rollout.capacity import routable_count
from podium_operator.state import Desired, Observed, ObservedPod, Pool
from podium_operator.times import parse_time, rfc3339

ALL = 100
"""The weight that follows the last step."""


@dataclass(frozen=True, slots=True)
class Standing:
    """At which step a rollout is. `canary` None: the first step is not begun."""

    canary: CanaryStatus | None
    waiting: str = ""
    due: datetime | None = None
    """When to look again although nothing changed."""
    held: bool = False
    """Whether only the user can let it go on."""
    inconclusive: str = ""
    """Why the analysis holds a step whose time is over."""


def stand(
    observed: Observed, desired: Desired, home: Pool | None, strategy: ResolvedStrategy | None, now: datetime
) -> Standing | None:
    """The step of this pass, one above the last once all are over; None where the change is of a kind that has none."""
    steps = desired.rollout.steps
    passed = passed_by_hand(desired)
    serving = observed.revisions.get(desired.current or "")
    if not steps or serving is None or serving.name == desired.target.name or strategy is None:
        return None
    if strategy.resolved is RolloutStrategy.RECREATE:
        return None  # old and new never answer at once
    in_place = strategy.resolved is RolloutStrategy.IN_PLACE
    if not in_place and steps[0].weight == 0:
        passed = max(passed, 1)  # new pods answer: none of them could see copies alone
    if in_place and serving.record.hashes.load == desired.target.record.hashes.load:
        return None  # both are answered by the same workers
    at = desired.canary
    if passed >= len(steps) or (at is not None and at.step > len(steps)):
        return _over(desired, now)
    if at is None or at.step <= passed:
        if home is None or (in_place and not loaded_everywhere(home, desired.target.name)):
            return Standing(at)
        return Standing(_begin(steps, passed + 1, now), waiting=_of(steps, passed + 1))
    at = at.model_copy(update={"weight": steps[at.step - 1].weight})
    if home is None or not _reached(observed, home, desired, at, now, in_place=in_place):
        who = "Gateways and pods" if desired.weighted and observed.route is not None and not in_place else "pods"
        return Standing(at, waiting=f"{who} to give {desired.target.name} {at.weight} % of the requests")
    return _held(observed, desired, at, now)


def _over(desired: Desired, now: datetime) -> Standing:
    """All traffic may go over; kept in status until it has."""
    last, at = len(desired.rollout.steps), desired.canary
    if at is not None and at.step > last:
        return Standing(at.model_copy(update={"step": last + 1, "weight": ALL}))
    return Standing(CanaryStatus(step=last + 1, weight=ALL, start_time=rfc3339(now)))


def _held(observed: Observed, desired: Desired, at: CanaryStatus, now: datetime) -> Standing:
    """The share is reached: until when it is kept, or the next step."""
    steps = desired.rollout.steps
    said = findings(observed, desired)
    pods = [pod for pool in observed.pools for pod in pool.live_pods]
    at = at.model_copy(update={"analysis": said.message, "shadow": parity.told(desired, pods)})
    pause = steps[at.step - 1].pause_seconds
    if pause is None:
        waiting = f"{_of(steps, at.step)} to be promoted (podium promote {desired.owner.resource.name})"
        return Standing(at, waiting=waiting, held=True)
    due = (parse_time(at.start_time) or now) + timedelta(seconds=pause)
    if now < due:
        return Standing(at, waiting=f"{_of(steps, at.step)}, held until {rfc3339(due)}", due=due)
    if said.finding is Finding.INCONCLUSIVE:
        return Standing(at, waiting=f"{_of(steps, at.step)}: {said.message}", inconclusive=said.message)
    if at.step == len(steps):
        return _over(desired, now)
    return Standing(_begin(steps, at.step + 1, now), waiting=_of(steps, at.step + 1))


def findings(observed: Observed, desired: Desired) -> Analysed:
    """What the analysis says of the target now. At weight 0 it answers nobody: only copies can tell."""
    pods = [pod for pool in observed.pools for pod in pool.live_pods]
    serving = observed.revisions.get(desired.current or "")
    said = [parity.compared(desired, serving, pods)]
    if desired.canary is None or desired.canary.weight:
        said.append(analysed(desired.rollout.analysis, pods, desired.target.name, desired.current or ""))
        said.append(measured.judged(desired, observed.measured))
    return together(said)


def passed_by_hand(desired: Desired) -> int:
    """Steps that the user has promoted, all of them where no number is given."""
    name, _, step = desired.hand.promote.partition("/")
    if name != desired.target.name:
        return 0
    return int(step) if step.isdecimal() else len(desired.rollout.steps)


def pods_at(weight: int, replicas: int) -> tuple[int, int]:
    """In a surge: pods of the new revision at that share, and pods that the old may give up for them."""
    return max(1, ceil(replicas * weight / 100)), replicas * weight // 100


def loaded_everywhere(pool: Pool, revision: str) -> bool:
    """Whether every ready pod has the revision loaded."""
    bearing = [pod for pod in pool.live_pods if pod.ready]
    states = [held.state if (held := pod.holds(revision)) is not None else None for pod in bearing]
    return bool(states) and all(state in LOADED_STATES for state in states)


def _reached(
    observed: Observed, home: Pool, desired: Desired, at: CanaryStatus, now: datetime, *, in_place: bool
) -> bool:
    if in_place:
        bearing = [pod for pod in home.live_pods if pod.ready]
        return bool(bearing) and all(divides(pod, desired, at.weight) for pod in bearing)
    wanted, _ = pods_at(at.weight, desired.replicas)
    if routable_count(home, desired.rollout, now) < wanted:
        return False
    return weights.reached(observed, desired, home, at.weight, now)


def divides(pod: ObservedPod, desired: Desired, weight: int) -> bool:
    """Whether the pod gives the target that share, and the copies that are asked for. A release that makes no copies
    is not waited for: the analysis says that it has none."""
    held = pod.holds(desired.target.name)
    if held is None or held.weight != weight:
        return False
    return held.shadow is None or held.shadow.policy == parity.policy(desired)


def _begin(steps: tuple[RolloutStep, ...], step: int, now: datetime) -> CanaryStatus:
    return CanaryStatus(step=step, weight=steps[step - 1].weight, start_time=rfc3339(now))


def _of(steps: tuple[RolloutStep, ...], step: int) -> str:
    return f"step {step} of {len(steps)} ({steps[step - 1].weight} %)"
