"""A version change under load, from the steady state before to the steady state after."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from e2e.probers.ledger import Ledger
from e2e.probers.load import RATE_PER_S
from e2e.probers.probe import Probe

from . import verdicts
from .kubectl import Object
from .models import Chain, Scaler
from .served import Served
from .waiting import eventually
from .watching import Watch

STEADY = 40
"""Successes that make a steady state: two seconds of the usual load."""
LONG_S = 0.7
INSTANCES = 6
"""More workers than long requests at a time, so that short ones never wait for a pipeline's long ones."""

Meanwhile = Callable[[Probe], Mapping[str, float] | None]
"""What is done in the middle of a swap; revisions that only live there may be handed back with their factors."""


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
        steady, during = self.steady.quantile_s(0.99), self.during.quantile_s(0.99)
        took = self.finished - self.started
        return (
            f"{self.ledger.told()}\nswap {took:.1f} s; p99 before {steady * 1e3:.0f} ms, during {during * 1e3:.0f} ms"
        )

    @property
    def steady(self) -> Ledger:
        """Short requests sent before the change."""
        return self.ledger.between(0, self.started).of("request")

    @property
    def during(self) -> Ledger:
        """Short requests sent from the change until the resource was Ready again."""
        return self.ledger.between(self.started, self.finished).of("request")


def swap(
    served: Served,
    wanted: Scaler | Chain,
    meanwhile: Meanwhile | None = None,
    *,
    long_s: float = LONG_S,
    rate_per_s: float = RATE_PER_S,
) -> Swap:
    """Load, apply `wanted`, do something `meanwhile`, wait until Ready, and load on until it is steady again.

    `meanwhile` may apply something else: the end is whatever is then the newest.
    """
    old = served.current()
    scales = served.scales()
    before = served.identities()
    routable: list[int] = []

    def count(endpoint_slice: Object) -> bool:
        endpoints = endpoint_slice.get("endpoints") or []
        routable.append(sum(each["conditions"].get("ready", True) for each in endpoints))
        return False

    slices = Watch(served.kubectl, "endpointslices", count, selector=served.selector)
    steady = round(STEADY * rate_per_s / RATE_PER_S)
    with slices, served.load(long_s=long_s, rate_per_s=rate_per_s) as probe:
        probe.wait_for_successes(steady, timeout=60)
        started = time.time()
        served.apply(wanted)
        if meanwhile is not None:
            scales |= meanwhile(probe) or {}
        served.ready(timeout=180)
        # Ready is said of the pods that stay; those of before may still answer on connections that they are closing.
        eventually(
            "the pods of before are gone", lambda: len(served.pods()), lambda left: left == wanted.replicas, timeout=90
        )
        finished = time.time()
        probe.wait_for_successes(steady, timeout=60, after=finished)
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


def newest(served: Served, old: str) -> dict[str, float]:
    """The revision that is being rolled out, once there is one besides `old`, with its factor."""

    def asked() -> dict[str, float]:
        wanted = served.get()["status"].get("updateRevision")
        return {name: scale for name, scale in served.scales().items() if name == wanted and name != old}

    return eventually("a new revision is in status", asked, bool, timeout=30)


def until_answered_by_another(probe: Probe, old: str, *, timeout: float = 120.0) -> None:
    """Return once a request was answered by another revision than `old`."""
    probe.wait(
        lambda entries: any(entry.ok and entry.revision != old for entry in entries),
        what=f"an answer of another revision than {old}",
        timeout=timeout,
    )


def unnoticed(result: Swap, passing: Mapping[str, float] | None = None) -> None:
    """The claim: nothing failed, each body is its revision's, old and new answered, capacity never fell.

    Revisions in `passing` were overtaken: they may have answered, and need not have.
    """
    verdicts.nothing_failed(result.ledger)
    verdicts.bodies_match(result.ledger, result.scales)
    answered = set(result.ledger.by_revision()) - (set(passing or ()) - {result.old, result.new})
    assert answered == {result.old, result.new}, f"{answered} answered, expected {result.old} and {result.new}"
    verdicts.never_back(result.ledger, result.finished, result.new)
    assert result.routable, "no EndpointSlice was seen"
    assert min(result.routable) >= result.replicas, f"ready endpoints fell below {result.replicas}: {result.routable}"


def flawless(result: Swap, passing: Mapping[str, float] | None = None) -> None:
    """The same in place: the pods are the same ones as before."""
    unnoticed(result, passing)
    uids_before = {name: uid for name, (uid, _) in result.identities_before.items()}
    uids_after = {name: uid for name, (uid, _) in result.identities_after.items()}
    assert uids_before == uids_after, f"pods changed: {uids_before} -> {uids_after}"
