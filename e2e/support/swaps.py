"""A version change under load, from the steady state before to the steady state after."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from e2e.probers.ledger import Ledger
from e2e.probers.probe import Probe

from . import verdicts
from .kubectl import Object
from .models import Chain, Scaler
from .served import Served
from .watching import Watch

STEADY = 40
"""Successes that make a steady state: two seconds of load."""
LONG_S = 0.7
INSTANCES = 6
"""More workers than long requests at a time, so that short ones never wait for long ones."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A finished version change: the closed books, and what was true before and after it."""

    ledger: Ledger
    scales: dict[str, float]
    old: str
    new: str
    identities_before: dict[str, tuple[str, int]]
    identities_after: dict[str, tuple[str, int]]
    started: float
    finished: float
    replicas: int
    routable: list[int]
    """How many endpoints were ready, at each change of the EndpointSlice."""

    def told(self) -> str:
        """For the log of the run."""
        steady = self.ledger.between(0, self.started).of("request")
        during = self.ledger.between(self.started, self.finished).of("request")
        return (
            f"{self.ledger.told()}\nswap {self.finished - self.started:.1f} s; p99 before "
            f"{steady.quantile_s(0.99) * 1e3:.0f} ms, during {during.quantile_s(0.99) * 1e3:.0f} ms"
        )


def swap(served: Served, wanted: Scaler | Chain, meanwhile: Callable[[Probe], None] | None = None) -> Swap:
    """Load, apply `wanted`, do something `meanwhile`, wait until Ready, and load on until it is steady again."""
    old = served.current()
    scales = served.scales()
    before = served.identities()
    routable: list[int] = []

    def count(endpoint_slice: Object) -> bool:
        endpoints = endpoint_slice.get("endpoints") or []
        routable.append(sum(each["conditions"].get("ready", True) for each in endpoints))
        return False

    slices = Watch(served.kubectl, "endpointslices", count, selector=served.selector)
    with slices, served.load(long_s=LONG_S) as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        started = time.time()
        served.apply(wanted)
        if meanwhile is not None:
            meanwhile(probe)
        served.ready(timeout=180)
        finished = time.time()
        probe.wait_for_successes(STEADY, timeout=60, after=finished)
        scales |= served.scales()
        ledger = probe.stop()
    result = Swap(
        ledger=ledger,
        scales=scales,
        old=old,
        new=served.current(),
        identities_before=before,
        identities_after=served.identities(),
        started=started,
        finished=finished,
        replicas=wanted.replicas,
        routable=routable,
    )
    print(result.told())
    return result


def flawless(result: Swap) -> None:
    """The claim: nothing failed, each body is its revision's, both answered, capacity never fell, the same pods."""
    verdicts.nothing_failed(result.ledger)
    verdicts.bodies_match(result.ledger, result.scales)
    verdicts.answered_by(result.ledger, {result.old, result.new})
    verdicts.never_back(result.ledger, result.finished, result.new)
    assert result.routable, "no EndpointSlice was seen"
    assert min(result.routable) >= result.replicas, f"ready endpoints fell below {result.replicas}: {result.routable}"
    uids_before = {name: uid for name, (uid, _) in result.identities_before.items()}
    uids_after = {name: uid for name, (uid, _) in result.identities_after.items()}
    assert uids_before == uids_after, f"pods changed: {uids_before} -> {uids_after}"
