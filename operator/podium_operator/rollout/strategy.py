"""Auto → one strategy and why. The answer is written to status before anything is done."""

from dataclasses import dataclass, replace

from podium_crds.reasons import Reason
from podium_crds.rollout import RolloutStrategy
from podium_crds.status import ResolvedStrategy
from podium_operator.rollout import failures
from podium_operator.rollout.capacity import crowded_gpus, gpu_fits, gpus_per_pod, overlap_bytes, smallest_headroom
from podium_operator.state import Desired, KnownRevision, Observed, Pool, Problem

REFUSAL_CHARS = 768
"""Of what a pod said: status takes a little more for the whole reason."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The strategy of this rollout, or why there is none."""

    strategy: ResolvedStrategy | None
    refusal: Problem | None = None
    """Set: the old revision serves untouched until this changes. `strategy` then is what it will be, where that is
    settled already."""
    memory_bytes_needed: int = 0


def resolve(observed: Observed, desired: Desired, host: Pool, serving: KnownRevision) -> Resolution:
    """How `desired.target` replaces `serving`, which the pool `host` runs.

    Once begun, a rollout keeps its strategy: `desired.chosen`, as status has it for this very target. A choice that
    can no longer be followed is made anew, once: what a pod refused is not tried in place again.
    """
    asked, chosen = desired.rollout.strategy, desired.chosen
    same_shape = host.stamp is not None and host.stamp.shape_hash == desired.target.record.hashes.shape
    # What the host itself promotes is refused where a pod came up at something older meanwhile, and serves that.
    refused = failures.refusal(observed.pools, desired.target) or failures.refusal((host,), serving)
    if (
        chosen is not None
        and chosen.resolved is RolloutStrategy.SURGE
        and _still_allowed(chosen.resolved, asked, same_shape)
    ):
        return _settled_surge(observed, desired, chosen.reason)
    if refused is not None and asked is RolloutStrategy.AUTO:
        return _settled_surge(
            observed, desired, f"no room for both revisions in a pod: {refused.message[:REFUSAL_CHARS]}"
        )
    if chosen is not None and _still_allowed(chosen.resolved, asked, same_shape):
        return Resolution(chosen)
    if serving.record.hashes.load == desired.target.record.hashes.load and same_shape:
        return _resolved(RolloutStrategy.IN_PLACE, "only settings change: the loaded workers are kept")
    if asked is RolloutStrategy.RECREATE:
        return _resolved(RolloutStrategy.RECREATE, "asked for in the spec")
    if asked is RolloutStrategy.SURGE:
        return _surge(observed, desired, "asked for in the spec")
    if not same_shape:
        if asked is RolloutStrategy.IN_PLACE:
            return Resolution(
                None,
                Problem(
                    Reason.INVALID_SPEC,
                    "strategy InPlace cannot change what the pod itself is made of (image, resources, volumes, env, "
                    "scheduling, arenaBytes): set rollout.strategy to Auto or Surge",
                ),
            )
        return _surge(observed, desired, "the pods themselves change (image, resources, env, scheduling or arena)")
    return _in_place(observed, desired, host, serving)


def _still_allowed(chosen: RolloutStrategy, asked: RolloutStrategy, same_shape: bool) -> bool:
    if chosen is RolloutStrategy.IN_PLACE:
        return same_shape and asked in (RolloutStrategy.AUTO, RolloutStrategy.IN_PLACE)
    if chosen is RolloutStrategy.SURGE:
        return asked in (RolloutStrategy.AUTO, RolloutStrategy.SURGE)
    return asked in (RolloutStrategy.AUTO, RolloutStrategy.RECREATE)


def _in_place(observed: Observed, desired: Desired, host: Pool, serving: KnownRevision) -> Resolution:
    target = desired.target
    if (crowded := crowded_gpus(serving.record, target.record)) is not None:
        if desired.rollout.strategy is RolloutStrategy.IN_PLACE:
            return Resolution(None, Problem(Reason.INSUFFICIENT_GPU, crowded))
        return _surge(observed, desired, crowded)
    needed = overlap_bytes(host, serving, target)
    headroom = smallest_headroom(host)
    if headroom is None or needed <= headroom:
        room = "" if headroom is None else f": it needs {_mib(needed)} of the {_mib(headroom)} left in the fullest pod"
        return Resolution(
            ResolvedStrategy(
                resolved=RolloutStrategy.IN_PLACE, reason=f"the new revision fits beside the old in the same pods{room}"
            ),
            memory_bytes_needed=needed,
        )
    why = f"no room for both revisions in a pod: {_mib(needed)} are needed, {_mib(headroom)} are left"
    if desired.rollout.strategy is RolloutStrategy.IN_PLACE:
        return Resolution(None, Problem(Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP, why))
    return _surge(observed, desired, why)


def _surge(observed: Observed, desired: Desired, why: str) -> Resolution:
    per_pod = gpus_per_pod(desired.target.record)
    # With maxSurge 0 the old makes room first, so the new needs nothing beyond it.
    if desired.rollout.max_surge > 0 and gpu_fits(observed, per_pod) is False:
        if desired.rollout.allow_recreate and desired.rollout.strategy is RolloutStrategy.AUTO:
            return _resolved(RolloutStrategy.RECREATE, f"{why}, and no node has {per_pod} GPU(s) left beside the old")
        return Resolution(
            None,
            Problem(
                Reason.INSUFFICIENT_GPU,
                f"new pods are needed ({why}), and no schedulable node has {per_pod} GPU(s) left for one; the old "
                "revision serves on, and the rollout starts by itself when room appears",
            ),
        )
    return _resolved(RolloutStrategy.SURGE, why)


def _settled_surge(observed: Observed, desired: Desired, why: str) -> Resolution:
    """A surge that has not begun yet. Named in status also while it waits for room: the pod that refused the candidate
    is relieved of it, and says nothing about it any more."""
    found = _surge(observed, desired, why)
    return found if found.refusal is None else replace(found, strategy=_resolved(RolloutStrategy.SURGE, why).strategy)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def _resolved(strategy: RolloutStrategy, reason: str) -> Resolution:
    return Resolution(ResolvedStrategy(resolved=strategy, reason=reason))
