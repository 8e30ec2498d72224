"""The thin path: apply, Ready, the right answer; wrong resources refused; deleted ones gone; a prober that sees."""

from __future__ import annotations

import time
from typing import Any

import pytest
from e2e.probers.probe import Probe
from e2e.support import oip, undrained
from e2e.support.kubectl import condition
from e2e.support.models import Chain, Scaler
from e2e.support.namespaces import Space
from e2e.support.swaps import LONG_S, STEADY
from e2e.support.waiting import eventually


@pytest.mark.thin
def test_an_applied_model_becomes_ready_and_answers_right(space: Space) -> None:
    served = space.served(Scaler(scale=2))
    item = served.get()
    for kind, status in {"Available": "True", "Progressing": "False", "UpToDate": "True", "Validated": "True"}.items():
        assert condition(item, kind)[0] == status, item["status"]
    value, revision = served.answer(21)
    assert value == 42
    assert revision == served.current()


@pytest.mark.thin
def test_an_applied_pipeline_becomes_ready_and_answers_right(space: Space) -> None:
    served = space.served(Chain(first=2, second=5))
    value, revision = served.answer(7)
    assert value == 70
    assert revision == served.current()


def test_kubectl_wait_get_and_explain_work_as_people_expect(space: Space) -> None:
    served = space.applied(Scaler())
    space.kubectl("wait", f"{served.resource}/{served.name}", "--for=condition=Ready", "--timeout=90s", timeout=100)
    header, row = space.kubectl("get", served.resource).splitlines()
    assert header.split()[:4] == ["NAME", "READY", "AVAILABLE", "VERSION"]
    assert row.split()[:4] == ["scaler", "True", "True", "x2"]
    assert served.name in space.kubectl("get", "inference")
    explained = space.kubectl("explain", f"{served.resource}.spec.source.digest")
    assert "What the fetched bytes must hash to" in explained


def test_predict_answers_in_named_tensors(space: Space) -> None:
    served = space.served(Scaler(scale=3))
    host, port = served.address()
    answer = oip.post(host, port, "/v1/models/scaler:predict", '{"inputs": {"x": [[5]], "delay": [[0]]}}')
    assert answer.status == 200, answer.body
    assert b"15" in answer.body


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"replicaz": 2}, "replicaz"),
    "no block for the engine": ({"python": None, "torch": {"entrypoint": "a:b"}}, "entrypoint: module:Class"),
    "http without a digest": ({"source": {"uri": "http://store/model.tar"}}, "sha256"),
    "a negative replica count": ({"replicas": -1}, "replicas"),
    "a source nobody can read": ({"source": {"uri": "ftp://store/model"}}, "uri"),
    "Recreate without consent": ({"rollout": {"strategy": "Recreate"}}, "allowRecreate"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_spec_is_refused_at_apply_with_the_reason(shared_space: Space, case: str) -> None:
    space = shared_space
    change, expected = WRONG[case]
    manifest = Scaler().manifest()
    spec = {key: value for key, value in {**manifest["spec"], **change}.items() if value is not None}
    said = space.kubectl.refusal({**manifest, "spec": spec})
    assert expected in said
    assert space.kubectl.list("inference") == []


def test_a_pipeline_that_calls_an_unknown_member_is_refused_at_apply(shared_space: Space) -> None:
    manifest = Chain().manifest()
    manifest["spec"]["steps"][0]["model"] = "absent"
    assert "add it under models" in shared_space.kubectl.refusal(manifest)


def test_a_deleted_model_leaves_nothing(space: Space) -> None:
    served = space.served(Scaler(replicas=2))
    served.delete()
    assert space.kubectl.list("inference") == []


def test_the_prober_reports_failures_of_a_deployment_without_drain(space: Space) -> None:
    """The negative control: if this passes, a clean ledger elsewhere means something."""
    space.kubectl.apply(*undrained.objects(space.installation.images.runtime))
    space.kubectl.rolled_out(f"deployment/{undrained.NAME}")
    address = space.kubectl.get("service", undrained.NAME)["spec"]["clusterIP"]
    eventually("the Service answers", lambda: undrained.answers(address), bool, timeout=30)
    with Probe(oip.load(address, undrained.PORT, undrained.NAME, long_s=LONG_S)) as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        space.kubectl("rollout", "restart", f"deployment/{undrained.NAME}")
        space.kubectl.rolled_out(f"deployment/{undrained.NAME}")
        probe.wait_for_successes(STEADY, timeout=60, after=time.time())
        ledger = probe.stop()
    print(ledger.told())
    assert ledger.lost == 0
    assert ledger.failed != [], "the prober saw no failure where requests must have been lost"
