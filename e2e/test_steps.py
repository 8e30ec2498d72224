"""Rollouts in steps, driven by `podium` from a terminal: exact shares, going on, going back, and the analysis' word."""

from __future__ import annotations

import time

import pytest
from e2e.probers.ledger import Entry, Ledger
from e2e.probers.probe import Probe
from e2e.support import verdicts
from e2e.support.commands import podium
from e2e.support.kubectl import condition
from e2e.support.models import Scaler
from e2e.support.namespaces import Space
from e2e.support.served import Served
from e2e.support.swaps import INSTANCES, LONG_S, STEADY
from e2e.support.waiting import eventually

COUNTED = 150
"""Answers from which a share is taken."""
STEPS = {"steps": [{"weight": 20}, {"weight": 50}]}


def share(probe: Probe, served: Served, step: int, weight: int) -> None:
    """Wait until that step is reached and enough was answered in it; every pod has split exactly."""

    def reached() -> bool:
        at = served.get()["status"].get("canary") or {}
        return at.get("step") == step and all(
            any(each["weight"] == weight and each["name"] == wanted for each in served.report(pod)["revisions"])
            for pod in pods
        )

    pods, wanted = served.pods(), served.get()["status"]["updateRevision"]
    eventually(f"step {step} is reached", reached, bool, timeout=60)
    since = time.time()
    probe.wait_for_successes(COUNTED, timeout=60, after=since)
    counted = probe.so_far().between(since, float("inf"))
    new, total = counted.by_revision()[wanted], len(counted.entries)
    print(f"step {step}: {new} of {total} answers by {wanted}")
    # What was sent is divided; of what is under way at the edges only a part is in the books.
    assert abs(new - total * weight / 100) <= 3 * len(pods), f"{new} of {total} is not {weight} %"


def test_a_canary_is_promoted_step_by_step_and_rolled_back_by_hand(space: Space) -> None:
    first = Scaler(scale=2, replicas=2, instances=INSTANCES, rollout=STEPS)
    served = space.served(first)
    old, before = served.current(), served.identities()
    with served.load(long_s=LONG_S) as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        served.apply(first.at(3))
        eventually(
            "step 1", lambda: (served.get()["status"].get("canary") or {}).get("step"), lambda at: at == 1, timeout=60
        )
        share(probe, served, 1, 20)
        assert "goes on past step 1" in podium(served, "promote", served.name)
        share(probe, served, 2, 50)
        assert " 50 %" in podium(served, "status", served.name)
        podium(served, "promote", served.name)
        served.ready(timeout=120)
        new, promoted = served.current(), time.time()
        assert new != old
        scales = served.scales()
        probe.wait_for_successes(STEADY, timeout=60, after=promoted)
        commanded = time.time()
        podium(served, "rollback", served.name)
        said = time.time()
        probe.wait(
            lambda entries: any(entry.ok and entry.revision == old and entry.sent_at > commanded for entry in entries),
            what="an answer of the old revision",
            timeout=60,
        )
        served.settled("UpToDate", "False", "RolledBack")
        probe.wait_for_successes(STEADY, timeout=60, after=time.time())
        settled = time.time()
        ledger = probe.stop()
    back = [entry for entry in ledger.succeeded if entry.revision == old and entry.sent_at > commanded]
    first_back = min(entry.done_at for entry in back)
    last_new = max(entry.sent_at for entry in ledger.succeeded if entry.revision == new)
    print(
        f"{ledger.told()}\nrollback: the command took {said - commanded:.2f} s; from its start to the first answer of "
        f"the old revision {first_back - commanded:.2f} s, to the last request answered by the new one "
        f"{last_new - commanded:.2f} s"
    )
    verdicts.nothing_failed(ledger)
    verdicts.bodies_match(ledger, scales)
    verdicts.answered_by(ledger, {old, new})
    between = ledger.between(promoted, commanded)
    assert set(between.by_revision()) == {new}
    assert last_new < settled
    assert served.identities() == before
    assert served.current() == old


@pytest.mark.parametrize(
    ("fault", "analysis"),
    [
        ({"slowSeconds": 0.3}, {"maxP99LatencyPercent": 200, "minRequests": 20}),
        ({"fault": "raises"}, {"maxErrorPercent": 5, "minRequests": 20}),
    ],
    ids=["slow", "raises"],
)
def test_a_canary_that_the_analysis_refuses_gives_its_share_back(
    space: Space, fault: dict[str, object], analysis: dict[str, int]
) -> None:
    """Nothing fails but what the canary itself was asked, and nothing once it was refused."""
    steps = {"steps": [{"weight": 30, "pauseSeconds": 120}], "analysis": analysis}
    first = Scaler(scale=2, instances=INSTANCES, rollout=steps)
    served = space.served(first)
    old, before = served.current(), served.identities()
    # No streams: their whole length counts among the latencies that are compared, and would hide the slowness.
    with served.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        served.apply(first.at(3, **fault))
        item = served.settled("Progressing", "False", "AnalysisFailed", timeout=120)
        scales, canary = served.scales(), str(item["status"]["updateRevision"])
        # Status speaks first; a refusal counts from when the pod has it.
        eventually("the pod gives it nothing", lambda: weight_of(served, canary), lambda weight: weight == 0, timeout=5)
        refused = time.time()
        probe.wait_for_successes(STEADY, timeout=60, after=refused)
        ledger = probe.stop()
    print(ledger.told(), condition(item, "Progressing"))
    assert ledger.lost == 0
    verdicts.bodies_match(ledger, scales)
    verdicts.never_back(ledger, refused, old)
    verdicts.only(ledger.failed, by(ledger, canary), "they were the canary's")
    assert bool(ledger.failed) == ("fault" in fault)
    assert ledger.between(refused, float("inf")).failed == []
    assert served.identities() == before
    assert condition(served.get(), "Available")[0] == "True"


PARITY = {
    "steps": [{"weight": 0, "pauseSeconds": 3}],
    "analysis": {"parity": {"shadowPercent": 100, "minCompared": 20}},
}


def test_a_candidate_whose_answers_differ_never_answers_anybody_and_one_that_agrees_takes_over(space: Space) -> None:
    first = Scaler(scale=2, instances=INSTANCES, rollout=PARITY).with_spec(idempotent=True)
    served = space.served(first)
    old, before = served.current(), served.identities()
    with served.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        served.apply(first.at(3))
        item = served.settled("Progressing", "False", "AnalysisFailed", timeout=120)
        told = condition(item, "Progressing")
        assert "y" in next(each["message"] for each in item["status"]["conditions"] if each["type"] == "Progressing")
        differing = str(item["status"]["updateRevision"])
        applied = time.time()
        served.apply(first.at(2, loadSeconds=0.1))
        served.ready(timeout=120)
        agreeing, promoted = served.current(), time.time()
        probe.wait_for_successes(STEADY, timeout=60, after=promoted)
        scales = served.scales()
        ledger = probe.stop()
    print(ledger.told(), told)
    assert len({old, differing, agreeing}) == 3
    verdicts.nothing_failed(ledger)
    verdicts.bodies_match(ledger, scales)
    verdicts.answered_by(ledger, {old, agreeing})
    assert set(ledger.between(0, applied).by_revision()) == {old}
    verdicts.never_back(ledger, promoted, agreeing)
    assert served.identities() == before


def weight_of(served: Served, revision: str) -> int:
    """The share of a revision in the only pod."""
    (pod,) = served.pods()
    return sum(each["weight"] for each in served.report(pod)["revisions"] if each["name"] == revision)


def by(ledger: Ledger, revision: str) -> list[Entry]:
    """What that revision answered, well or not."""
    return [entry for entry in ledger.entries if entry.answered and entry.revision == revision]
