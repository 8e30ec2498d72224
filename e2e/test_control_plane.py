"""Those who decide taken away in a swap: the leading operator halted and woken, the API server gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from e2e.clusters.base import Cluster
from e2e.clusters.built import BuiltCluster
from e2e.probers.probe import Probe
from e2e.support import faults, verdicts
from e2e.support.agents import Agent
from e2e.support.installation import Installation
from e2e.support.models import Scaler
from e2e.support.namespaces import Space
from e2e.support.served import is_ready, restarts
from e2e.support.swaps import INSTANCES, STEADY, flawless, newest, swap
from e2e.support.waiting import eventually

AWAY_S = 22
"""How long no API server answers: longer than the operator's Lease, shorter than a node may be silent."""
TOOK_OVER_S = 90


@pytest.fixture
def two_operators(installation: Installation) -> Iterator[Installation]:
    """The release with a second operator that stands by; with one again afterwards."""
    installation.upgrade("operator.replicas=2")
    eventually(
        "two operators are ready",
        installation.operators,
        lambda found: len(found) == 2 and all(map(is_ready, found)),
        timeout=90,
    )
    yield installation
    installation.upgrade()
    installation.operator()


def test_a_leader_halted_in_a_promotion_and_woken_after_the_next_has_no_stale_effect(
    space: Space, two_operators: Installation, agents_by_node: dict[str, Agent]
) -> None:
    """It sleeps with the promotion of B written and not yet in every pod; another promotes B, then C; then it wakes."""
    first = Scaler(scale=2, instances=INSTANCES, replicas=2)
    served = space.served(first)
    agent, process = faults.leading_process(two_operators, agents_by_node)
    asleep = faults.leader(two_operators)
    stop = faults.kill_in_promotion(served, (agent, process), 0, signal.SIGSTOP)
    passing: dict[str, float] = {}
    woken: list[float] = []

    def meanwhile(probe: Probe) -> dict[str, float]:
        stop.strike()
        passing.update(newest(served, stop.old))
        try:
            eventually(
                "the other operator leads",
                lambda: faults.leader(two_operators),
                lambda name: name not in ("", asleep),
                timeout=TOOK_OVER_S,
            )
            served.ready(timeout=60)
            served.apply(first.at(4))
            served.ready(timeout=60)
            probe.wait_for_successes(STEADY, timeout=60, after=time.time())
            pod = two_operators.kubectl.get("pod", asleep)
            assert agent.init(pod).pid == process.pid, "the sleeper was replaced: its waking proves nothing"
        finally:
            woken.append(time.time())
            agent.send(process, signal.SIGCONT)
        eventually("the sleeper has noticed and begun anew", started_again, bool, timeout=60)
        return passing

    def started_again() -> bool:
        pod = two_operators.kubectl.get("pod", asleep)
        return restarts(pod) > 0 and is_ready(pod)

    result = swap(served, first.at(3), meanwhile)
    flawless(result, passing)
    verdicts.never_back(result.ledger, woken[0], result.new)
    assert stop.flipped < first.replicas, "it slept after its promotion, not in it"
    assert set(passing) < set(result.ledger.by_revision())
    assert served.answer(3)[0] == 12
    assert {served.answer_of(pod)[1] for pod in served.pods()} == {result.new}
    assert result.identities_before == result.identities_after


def test_a_swap_goes_on_when_the_api_server_was_away(space: Space, cluster: Cluster) -> None:
    """Not ten minutes: a node silent for longer than 50 s has its pods marked by Kubernetes itself."""
    if not isinstance(cluster, BuiltCluster):
        pytest.skip(f"the API server of a cluster of kind {cluster.kind} is not a process of this machine")
    first = Scaler(scale=2, instances=INSTANCES, replicas=2)
    served = space.served(first)

    def away(probe: Probe) -> None:
        pods = served.pods()
        eventually(
            "the candidate loads",
            lambda: [each["state"] for pod in pods for each in served.report(pod)["revisions"]],
            lambda states: "Loading" in states,
            timeout=60,
            every=0.05,
        )
        server = cluster.api_server()
        assert server.alive
        os.kill(server.pid, signal.SIGSTOP)
        try:
            stopped = time.time()
            probe.wait(
                lambda entries: any(entry.ok and entry.sent_at > stopped + AWAY_S for entry in entries),
                what=f"answers {AWAY_S} s after the API server was halted",
                timeout=AWAY_S + 30,
            )
        finally:
            os.kill(server.pid, signal.SIGCONT)

    result = swap(served, first.at(3, loadSeconds=4), away)
    flawless(result)
    assert result.identities_before == result.identities_after
    assert served.answer(3)[0] == 9
