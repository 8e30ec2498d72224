"""A new version that cannot come up: the right reason in status, while the old one serves on untouched."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from e2e.support import verdicts
from e2e.support.kubectl import Object, condition
from e2e.support.models import Chain, Scaler, shape
from e2e.support.namespaces import Space
from e2e.support.served import Served, is_ready
from e2e.support.store import archive, digest
from e2e.support.swaps import INSTANCES, LONG_S, STEADY
from e2e.support.waiting import eventually

SMOKE = {"request": {"x": [[2]], "delay": [[0]]}, "expect": {"y": [[999]]}}
"""No version of a test model answers this."""


def refuses_and_serves_on(served: Served, wanted: Scaler | Chain, reason: str) -> Object:
    """Apply `wanted` under load: it must end as `reason`, with no failure and no answer but the old revision's."""
    old, scales, before = served.current(), served.scales(), served.identities()
    with served.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        served.apply(wanted)
        item = served.settled("Progressing", "False", reason)
        probe.wait_for_successes(STEADY, timeout=60, after=time.time())
        ledger = probe.stop()
    verdicts.nothing_failed(ledger)
    verdicts.bodies_match(ledger, scales)
    verdicts.answered_by(ledger, {old})
    eventually("no pods but those of before", served.identities, lambda pods: pods == before, timeout=90)
    expected = {"Ready": "False", "Available": "True", "UpToDate": "False"}
    assert {kind: condition(item, kind)[0] for kind in expected} == expected
    assert item["status"]["currentRevision"] == old
    failed = next(each for each in item["status"]["revisions"] if each["name"] == item["status"]["updateRevision"])
    assert failed["lastFailure"]["reason"] == reason, failed
    return item


def from_store(space: Space, name: str = "one.tar") -> tuple[Scaler, dict[str, Any]]:
    """A model whose code comes over HTTP, and its source."""
    data = archive()
    store = space.store()
    store.put(name, data)
    source = store.source(name, digest(data))
    return Scaler(source=source), source


def test_a_missing_artifact_is_named_and_the_old_revision_serves_on(space: Space) -> None:
    first, source = from_store(space)
    served = space.served(first)
    never_stored = digest(archive("# nobody has these bytes, in no cache either\n"))
    gone = {"uri": source["uri"].replace("one.tar", "absent.tar"), "digest": never_stored}
    item = refuses_and_serves_on(served, Scaler(scale=3, source=gone), "ArtifactUnavailable")
    assert condition(item, "ArtifactsReady") == ("False", "ArtifactUnavailable")


def test_a_wrong_digest_is_named_and_the_old_revision_serves_on(space: Space) -> None:
    first, source = from_store(space)
    served = space.served(first)
    wrong = {**source, "digest": f"sha256:{'0' * 64}"}
    item = refuses_and_serves_on(served, Scaler(scale=3, source=wrong), "ArtifactDigestMismatch")
    assert condition(item, "ArtifactsReady") == ("False", "ArtifactDigestMismatch")


BAD = {
    "in place": (Scaler(), Scaler()),
    "in new pods": (Scaler(), Scaler().with_spec(**shape("next"))),
    "a pipeline": (Chain(), Chain()),
    "a pipeline in new pods": (Chain(), Chain().with_spec(**shape("next"))),
}
"""What is served, and what its next version is made of."""


@pytest.mark.parametrize(("first", "following"), BAD.values(), ids=BAD)
def test_a_version_that_fails_to_load_is_named_and_the_old_revision_serves_on(
    space: Space, first: Scaler | Chain, following: Scaler | Chain
) -> None:
    served = space.served(first)
    item = refuses_and_serves_on(served, following.at(3, failLoad=True), "LoadFailed")
    failed = next(each for each in item["status"]["revisions"] if each["name"] == item["status"]["updateRevision"])
    assert "told to fail its load" in failed["lastFailure"]["message"]


@pytest.mark.parametrize(("first", "following"), BAD.values(), ids=BAD)
def test_a_version_that_fails_its_smoke_test_is_named_and_the_old_revision_serves_on(
    space: Space, first: Scaler | Chain, following: Scaler | Chain
) -> None:
    served = space.served(first)
    refuses_and_serves_on(served, replace(following.at(3), smoke=SMOKE), "SmokeTestFailed")


def test_a_correction_after_a_failure_is_rolled_out(space: Space) -> None:
    served = space.served(Scaler())
    refuses_and_serves_on(served, Scaler().at(3, failLoad=True), "LoadFailed")
    served.apply(Scaler(scale=5))
    served.ready()
    assert served.answer(2)[0] == 10


DYING = {
    "in place": (Scaler(instances=INSTANCES), Scaler(instances=INSTANCES)),
    "in new pods": (Scaler(instances=INSTANCES), Scaler(instances=INSTANCES).with_spec(**shape("next"))),
    "a pipeline": (Chain(instances=INSTANCES), Chain(instances=INSTANCES)),
    "a pipeline in new pods": (Chain(instances=INSTANCES), Chain(instances=INSTANCES).with_spec(**shape("next"))),
}


@pytest.mark.parametrize(("first", "following"), DYING.values(), ids=DYING)
def test_a_version_whose_workers_die_after_the_flip_is_taken_back(
    space: Space, first: Scaler | Chain, following: Scaler | Chain
) -> None:
    """Only the bad version's requests fail, each told so by a 503 or a last event; none once the old is back."""
    served = space.served(first)
    old, before = served.current(), served.identities()
    with served.load(long_s=LONG_S) as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        applied = time.time()
        served.apply(following.at(3, fault="dies"))
        item = served.settled("UpToDate", "False", "RolledBack", timeout=120)
        eventually(
            "the old one serves",
            lambda: served.get()["status"]["currentRevision"],
            lambda name: name == old,
            timeout=60,
        )
        # New pods of the bad version answer, badly, until they are gone.
        eventually(
            "its pods alone are there", served.pods, lambda pods: len(pods) == 1 and is_ready(pods[0]), timeout=90
        )
        back, scales = time.time(), served.scales()
        probe.wait_for_successes(STEADY, timeout=60, after=back)
        ledger = probe.stop()
    print(ledger.told())
    print("rolled back:", condition(item, "Progressing"))
    assert ledger.lost == 0
    assert ledger.failed != [], "the bad version was asked nothing: nothing is proven"
    bad = min(entry.sent_at for entry in ledger.failed)
    print(
        f"first failure {bad - applied:.1f} s after the change, "
        f"last {max(entry.done_at for entry in ledger.failed) - bad:.1f} s later"
    )
    verdicts.bodies_match(ledger, scales)
    verdicts.never_back(ledger, back, old)
    assert ledger.between(back, float("inf")).failed == []
    in_place = following.extra == first.extra
    for entry in ledger.failed:
        # Between the bad pods and the good ones there may be none to answer.
        if entry.error:
            told = "worker_died" in entry.body or not in_place
        else:
            told = entry.status == 503 and entry.retry_after is not None
        assert told, entry.told()
    if in_place:
        assert served.identities() == before


def test_an_artifact_overwritten_before_scaling_up_is_a_digest_mismatch(space: Space) -> None:
    data = archive()
    store = space.store()
    store.put("one.tar", data)
    first = Scaler(source=store.source("one.tar", digest(data)))
    served = space.served(first)
    (pod,) = served.pods()
    with served.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        store.put("one.tar", archive("class Model: pass\n"))
        space.kubectl("scale", f"{served.resource}/{served.name}", "--replicas=2")
        eventually(
            "status names the mismatch",
            served.get,
            lambda item: condition(item, "ArtifactsReady") == ("False", "ArtifactDigestMismatch"),
            timeout=90,
        )
        probe.wait_for_successes(STEADY, timeout=60, after=time.time())
        ledger = probe.stop()
    verdicts.nothing_failed(ledger)
    verdicts.bodies_match(ledger, served.scales())
    assert condition(served.get(), "Available")[0] == "True"
    assert served.identities()[pod["metadata"]["name"]] == (pod["metadata"]["uid"], 0)
    store.put("one.tar", data)
    eventually(
        "the second pod serves once the artifact is back",
        served.get,
        lambda item: item["status"]["readyReplicas"] == 2 and condition(item, "ArtifactsReady")[0] == "True",
        timeout=120,
    )
