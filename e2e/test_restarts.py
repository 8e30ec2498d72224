"""Parts that die at the worst moment of a swap: the operator, a container, a worker. The outcome is always the same."""

from __future__ import annotations

import time

import pytest
from e2e.probers.ledger import Ledger
from e2e.probers.probe import Probe
from e2e.support import faults, verdicts
from e2e.support.agents import Agent
from e2e.support.kubectl import Object
from e2e.support.models import Scaler
from e2e.support.namespaces import Space
from e2e.support.served import Served
from e2e.support.swaps import INSTANCES, STEADY, flawless, swap
from e2e.support.waiting import eventually

SLOW_S = 4
ROTATE_ADMIN_KEY = "podium.dev/rotate-admin-key"
TRIES = 6
"""How often a moment of milliseconds is tried to be hit before the test gives up."""


@pytest.mark.parametrize("flips", [0, 1])
def test_the_operator_killed_between_its_pushes_changes_nothing_of_the_outcome(
    space: Space, agents_by_node: dict[str, Agent], flips: int
) -> None:
    """0: the ConfigMap is written and nothing pushed. 1: one pod has flipped, and the other has not."""
    first = Scaler(scale=2, instances=INSTANCES, replicas=2)
    served = space.served(first)
    for scale in range(3, 3 + TRIES):
        operator = faults.operator_process(space.installation, agents_by_node)
        kill = faults.kill_in_promotion(served, operator, flips)

        def meanwhile(_: Probe, kill: faults.KillInPromotion = kill) -> None:
            kill.strike()
            faults.replace_operator(space.installation)

        result = swap(served, first.at(scale), meanwhile)
        flawless(result)
        assert result.identities_before == result.identities_after
        if kill.flipped == flips:
            return
        print(f"{kill.flipped} pods had flipped, not {flips}: once more")
    raise AssertionError(f"in {TRIES} swaps the moment was never hit: nothing is proven")


def killed_in(served: Served, probe: Probe, kill: float) -> Ledger:
    """The closed books once a killed container serves again: nothing but the outage itself may have failed."""
    served.ready(timeout=180)
    probe.wait_for_successes(1, timeout=60, after=max(time.time(), kill))
    served_again = max(entry.sent_at for entry in probe.so_far().succeeded)
    probe.wait_for_successes(STEADY, timeout=60, after=served_again)
    ledger = probe.stop()
    print(ledger.told())
    assert ledger.lost == 0
    outage = [entry for entry in ledger.entries if entry.done_at >= kill and entry.sent_at <= served_again]
    verdicts.only(ledger.failed, outage, "a container was killed")
    return ledger


def test_a_container_killed_while_loading_comes_up_promoted_and_the_swap_goes_on(
    space: Space, agents_by_node: dict[str, Agent]
) -> None:
    first = Scaler(scale=2)
    served = space.served(first)
    old, scales = served.current(), served.scales()
    (pod,) = served.pods()
    with served.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        served.apply(first.at(3, loadSeconds=SLOW_S))

        def loads() -> bool:
            return any(each["state"] == "Loading" for each in served.report(pod)["revisions"])

        eventually("the candidate loads", loads, bool, timeout=60, every=0.05)
        kill = faults.kill_container(served, pod, agents_by_node[pod["spec"]["nodeName"]])
        probe.wait_for_successes(1, timeout=60, after=kill)
        after_restart = next(entry for entry in probe.so_far().succeeded if entry.sent_at > kill)
        assert after_restart.revision == old, after_restart.told()
        ledger = killed_in(served, probe, kill)
        verdicts.bodies_match(ledger, scales | served.scales())
    assert served.answer(2)[0] == 6
    assert served.identities()[pod["metadata"]["name"]] == (pod["metadata"]["uid"], 1)


def test_a_container_killed_after_the_flip_with_a_stale_mount_comes_up_promoted(
    space: Space, agents_by_node: dict[str, Agent]
) -> None:
    first = Scaler(scale=2)
    served = space.served(first)
    (pod,) = served.pods()
    agent = agents_by_node[pod["spec"]["nodeName"]]
    for scale in range(3, 3 + TRIES):
        old, scales = served.current(), served.scales()
        with served.load() as probe:
            probe.wait_for_successes(STEADY, timeout=60)
            served.apply(first.at(scale))
            faults.first_flip(served, old)
            flipped = time.time()
            report = served.report(pod)
            stale = report["mounted"] != report["applied"]
            kill = faults.kill_container(served, served.kubectl.get("pod", pod["metadata"]["name"]), agent)
            ledger = killed_in(served, probe, kill)
        new = served.current()
        assert new != old
        verdicts.bodies_match(ledger, scales | served.scales())
        verdicts.never_back(ledger, flipped, new)
        if stale:
            return
    raise AssertionError(f"in {TRIES} swaps the mount was never stale at the kill: nothing is proven")


def test_a_container_killed_after_promotion_comes_up_promoted(space: Space, agents_by_node: dict[str, Agent]) -> None:
    first = Scaler(scale=2)
    served = space.served(first)
    served.apply(first.at(3))
    served.ready()
    (pod,) = served.pods()
    current = served.current()
    with served.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        kill = faults.kill_container(served, pod, agents_by_node[pod["spec"]["nodeName"]])
        ledger = killed_in(served, probe, kill)
    verdicts.bodies_match(ledger, served.scales())
    verdicts.answered_by(ledger, {current})
    assert served.identities()[pod["metadata"]["name"]] == (pod["metadata"]["uid"], 1)


def test_a_worker_killed_costs_at_most_the_requests_in_flight_on_it(
    space: Space, agents_by_node: dict[str, Agent]
) -> None:
    served = space.served(Scaler(scale=2, instances=2))
    (pod,) = served.pods()
    agent = agents_by_node[pod["spec"]["nodeName"]]
    (member,) = served.report(pod)["revisions"][0]["members"]
    victim = next(each for each in agent.processes(pod) if each.inside == member["pids"][0])
    with served.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        before = time.time()
        agent.send(victim)
        after = time.time()
        eventually(
            "the worker is replaced",
            lambda: served.report(pod)["revisions"][0]["members"][0],
            lambda now: now["restarts"] > member["restarts"] and len(now["pids"]) == 2,
            timeout=60,
        )
        probe.wait_for_successes(STEADY, timeout=60, after=time.time())
        ledger = probe.stop()
    print(ledger.told())
    assert ledger.lost == 0
    in_flight = [entry for entry in ledger.entries if entry.sent_at <= after and entry.done_at >= before]
    verdicts.only(ledger.failed, in_flight, "a worker was killed")
    for entry in ledger.failed:
        assert (entry.status, entry.retry_after is not None) == (503, True), entry.told()
    verdicts.bodies_match(ledger, served.scales())
    assert served.identities()[pod["metadata"]["name"]] == (pod["metadata"]["uid"], 0)


def test_the_admin_key_rotated_in_the_middle_of_a_swap_changes_nothing_of_the_outcome(space: Space) -> None:
    first = Scaler(scale=2, instances=INSTANCES, replicas=2)
    served = space.served(first)
    pods = served.pods()
    secret = served.secret(pods[0])

    def key() -> str:
        return str(space.kubectl.get("secret", secret)["data"]["current"])

    old_key = key()

    def meanwhile(_: Probe) -> None:
        eventually("a candidate loads", lambda: any(map(loads, pods)), bool, timeout=60, every=0.05)
        space.kubectl("annotate", f"{served.resource}/{served.name}", f"{ROTATE_ADMIN_KEY}=now")
        eventually("the key is a new one", key, lambda now: now != old_key, timeout=30)

    def loads(pod: Object) -> bool:
        return any(each["state"] == "Loading" for each in served.report(pod)["revisions"])

    result = swap(served, first.at(3, loadSeconds=SLOW_S), meanwhile)
    flawless(result)
    assert result.identities_before == result.identities_after
    assert key() != old_key
