"""What counts as capacity, and what fits: routable pods, GPUs, memory for an overlap."""

from datetime import datetime, timedelta

from podium_crds.assignment import RevisionState
from podium_crds.budgets import gpu_demands
from podium_crds.gpus import packed, told
from podium_crds.revision import RevisionRecord
from podium_crds.rollout import RolloutSpec
from podium_operator.state import KnownRevision, Observed, ObservedPod, Pool

CRASH_RESTARTS = 3
"""Container restarts, with the kubelet backing off, after which a pod counts as crash-looping."""
UNREACHABLE_GRACE_S = 30
"""A container that started this recently may not answer yet."""


def serves(pod: ObservedPod, revision: str | None = None) -> bool:
    """Whether the pod answers requests through the Service now, with that revision where one is given.

    Without a report, readiness alone tells: it falls before the first activation.
    """
    if not (pod.ready and pod.endpoint_ready):
        return False
    if revision is None:
        return True
    held = pod.holds(revision)
    return held is not None and held.state is RevisionState.ACTIVE


def routable(pod: ObservedPod, rollout: RolloutSpec, now: datetime) -> bool:
    """Whether the pod is capacity: it serves, and has done so without a break for as long as routers take to know."""
    return serves(pod) and settles_at(pod, rollout) <= now


def settles_at(pod: ObservedPod, rollout: RolloutSpec) -> datetime:
    """When a ready pod becomes routable, if it stays ready."""
    assert pod.ready_since is not None, "asked of a pod that is not ready"
    return pod.ready_since + timedelta(seconds=max(rollout.propagation_seconds, rollout.min_ready_seconds))


def routable_count(pool: Pool, rollout: RolloutSpec, now: datetime) -> int:
    """Routable pods of the pool, less those that an already written scale-down will take."""
    return min(pool.replicas, sum(routable(pod, rollout, now) for pod in pool.pods))


def worth_keeping(pool: Pool, good: str | None) -> bool:
    """Whether the pool serves, or runs the last good revision and may come back from a moment of being unready.

    Else it may make room at once: what never served, and what fails in every pod.
    """
    if any(pod.ready or _is(pod, pool.promoted, RevisionState.ACTIVE) for pod in pool.live_pods):
        return True
    if good is None or pool.promoted != good:
        return False
    return not pool.live_pods or not all(_broken(pod, good) for pod in pool.live_pods)


def _broken(pod: ObservedPod, revision: str) -> bool:
    looping = pod.restarts >= CRASH_RESTARTS and (pod.waiting or "").startswith("CrashLoopBackOff")
    return looping or _is(pod, revision, RevisionState.FAILED)


def _is(pod: ObservedPod, revision: str | None, state: RevisionState) -> bool:
    held = pod.holds(revision) if revision is not None else None
    return held is not None and held.state is state


def unreachable(pool: Pool, now: datetime) -> tuple[ObservedPod, ...]:
    """Pods that should have answered at their admin port and did not."""
    grace = timedelta(seconds=UNREACHABLE_GRACE_S)
    return tuple(
        pod
        for pod in pool.live_pods
        if pod.unreachable and pod.running_since is not None and now - pod.running_since >= grace
    )


def overlap_bytes(pool: Pool, serving: KnownRevision, target: KnownRevision) -> int:
    """Memory that loading `target` beside `serving` is expected to need in one pod.

    A member whose load hash is unchanged keeps its workers and needs nothing; the others are expected to need what the
    serving revision's members measure now, the largest over the pods. 0 where nothing was measured.
    """
    kept = {member.load_hash for member in serving.record.members} & {m.load_hash for m in target.record.members}
    needed = 0
    for pod in pool.live_pods:
        held = pod.holds(serving.name)
        if held is not None:
            measured = sum(m.private_bytes + m.shared_bytes for m in held.members if m.load_hash not in kept)
            needed = max(needed, measured)
    return needed


def smallest_headroom(pool: Pool) -> int | None:
    """The least memory left in any pod of the pool; None where no pod says."""
    found = [
        pod.report.headroom_bytes
        for pod in pool.live_pods
        if pod.report is not None and pod.report.headroom_bytes is not None
    ]
    return min(found, default=None)


def gpus_per_pod(record: RevisionRecord) -> int:
    """GPUs that one pod of the revision asks for. Whole GPUs: Kubernetes takes no fraction of an extended resource."""
    return record.serving.resources.gpus


def crowded_gpus(serving: RevisionRecord, target: RevisionRecord) -> str | None:
    """Why members that share GPUs by parts cannot be loaded beside those that serve, in the same pods; None: they can.

    A member whose load hash is unchanged keeps its workers, and its part.
    """
    kept = {member.load_hash for member in serving.members}
    old = gpu_demands({member.name: member.definition for member in serving.members if member.remote is None})
    new = gpu_demands({member.name: member.definition for member in target.members if member.load_hash not in kept})
    if not new:
        return None
    beside = {**{f"{name} (serving)": demand for name, demand in old.items()}, **new}
    if packed(beside, target.serving.resources.gpus) is not None:
        return None
    return f"the parts of GPUs of both revisions do not fit on a pod's {target.serving.resources.gpus}: {told(beside)}"


def gpu_fits(observed: Observed, per_pod: int) -> bool | None:
    """Whether some schedulable node could still take a pod with that many GPUs, by an upper bound.

    Counts this resource's own pods alone, Terminating ones included, since they still hold theirs: False is certain,
    True is for the scheduler to confirm. None where nodes cannot be read.
    """
    if per_pod == 0:
        return True
    if observed.nodes is None:
        return None
    held: dict[str, int] = {}
    for pool in observed.pools:
        for pod in pool.pods:
            if pod.node is not None:
                held[pod.node] = held.get(pod.node, 0) + pod.gpus
    return any(node.schedulable and node.gpus - held.get(node.name, 0) >= per_pod for node in observed.nodes)
