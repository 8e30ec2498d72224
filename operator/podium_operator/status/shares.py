"""Which share of new requests a revision answers, from what pods report and how a live HTTPRoute divides. PURE."""

from collections.abc import Iterable
from statistics import fmean

from podium_operator.state import Backends, Observed, ObservedPod

ALL = 100


def share(revision: str, observed: Observed, before: int | None) -> int:
    """Percent, rounded. Where an HTTPRoute gives some pool a weight of its own, that of requests by the Gateways; else
    that of the pods, as clients of the Service have it.

    `before`: what status said. It stands while Gateways have not answered for the weights as they are.
    """
    route = observed.route
    divided = route.backends if route is not None else Backends()
    is_weighted = any(divided.pools.values())
    if is_weighted and route is not None and not route.answered and before is not None:
        return before
    everywhere = _of(revision, (pod for pool in observed.pools for pod in pool.live_pods))
    found = [(divided.service, everywhere)]
    if is_weighted:
        found += [(divided.pools.get(pool.name, 0), _of(revision, pool.live_pods)) for pool in observed.pools]
    parts = [(weight, part) for weight, part in found if part is not None]
    total = sum(weight for weight, _ in parts)
    return min(ALL, round(sum(weight * part for weight, part in parts) / total)) if total else 0


def _of(revision: str, pods: Iterable[ObservedPod]) -> float | None:
    """Percent of what these pods answer. They are asked in turn; None: none of them is."""
    serving = [pod for pod in pods if pod.ready and pod.report is not None]
    if not serving:
        return None
    return fmean(held.weight if (held := pod.holds(revision)) is not None else 0 for pod in serving)
