"""Pipelines on the cluster: the examples answer what is written beside them; steps call models by their Services."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import httpx
import pytest
import yaml
from e2e.probers.http1 import RequestError
from e2e.probers.ledger import Entry
from e2e.support import oip, verdicts
from e2e.support.models import Chain, Scaler
from e2e.support.namespaces import Space
from e2e.support.served import Served
from e2e.support.store import digest, packed
from e2e.support.swaps import STEADY
from e2e.support.waiting import eventually
from tests.examples.written import EXAMPLE, NAMES, assert_as_written, exchanges
from tests.runtime.serving.processes import Podium


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the example's prepare.py writes, as an archive."""
    folder = tmp_path_factory.mktemp("pipelines")
    shutil.copy(EXAMPLE / "prepare.py", folder)
    subprocess.run([sys.executable, folder / "prepare.py"], check=True, timeout=60)
    return packed(folder / "artifact")


def sources(space: Space, artifact: bytes, spec: dict[str, Any]) -> None:
    """Put what the example takes from folders where pods find it: code in a ConfigMap, the graph in a store."""
    stages = {file.name: file.read_text() for file in sorted((EXAMPLE / "stages").glob("*.py"))}
    space.kubectl.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stages"}, "data": stages})
    for member in spec["models"]:
        if member["inline"]["source"]["uri"] == "file:./stages":
            member["inline"]["source"] = {"uri": "configmap://stages"}
        else:
            store = space.store()
            store.put("artifact.tar", artifact)
            member["inline"]["source"] = store.source("artifact.tar", digest(artifact))


def post(served: Served, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and answer of one run through the Service."""
    host, port = served.address()
    got = oip.post(host, port, f"/v1/pipelines/{served.name}:run", json.dumps(body))
    return got.status, json.loads(got.body)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_answers_what_is_written_beside_it(space: Space, artifact: bytes, name: str) -> None:
    manifest = yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text())
    sources(space, artifact, manifest["spec"])
    space.kubectl.apply(manifest)
    served = Served(space.kubectl, "inferencepipeline", name)
    served.ready()
    eventually("its Service leads to its pod", lambda: leads(served), bool, timeout=10)
    for exchange in exchanges(name):
        status, answer = post(served, {"inputs": exchange["inputs"]})
        assert status == 200, answer
        assert_as_written(answer, exchange)


def leads(served: Served) -> bool:
    """Whether anything answers at the Service yet: nodes may learn of an endpoint after the API server has."""
    try:
        post(served, {})
    except RequestError:
        return False
    return True


def referenced(first: Scaler, second: Scaler) -> Chain:
    """A chain whose steps call two models in pods of their own."""
    members = [
        {"name": "first", "modelRef": {"name": first.name}},
        {"name": "second", "modelRef": {"name": second.name}},
    ]
    return Chain(first=first.scale, second=second.scale).with_spec(placement="Referenced", models=members)


def test_a_models_version_changes_under_a_pipeline_that_calls_its_service(space: Space) -> None:
    first, second = Scaler(name="doubler", scale=2), Scaler(name="fivefold", scale=5)
    doubler = space.served(first)
    space.served(second)
    chain = space.served(referenced(first, second))
    pods, revision = chain.identities(), chain.current()
    with chain.load() as probe:
        probe.wait_for_successes(STEADY, timeout=60)
        doubler.apply(first.at(3))
        doubler.ready()
        eventually("an answer by the model's new version", lambda: chain.answer(7)[0], lambda y: y == 105, timeout=30)
        probe.wait_for_successes(STEADY, timeout=60)
        ledger = probe.stop()
    print(ledger.told())
    verdicts.nothing_failed(ledger)
    factors = [factor_of(entry) for entry in ledger.succeeded]
    assert set(factors) == {10, 15}, "each answer is by one version of each model"
    assert (chain.identities(), chain.current()) == (pods, revision), "only the model's own pods changed"


def factor_of(entry: Entry) -> float:
    """What the request's number was multiplied by."""
    return oip.number(entry.body) / entry.number


def test_a_model_that_is_gone_is_named_by_status_and_answers_and_heals_with_its_return(space: Space) -> None:
    first, second = Scaler(name="doubler", scale=2), Scaler(name="fivefold", scale=5)
    space.served(first)
    fivefold = space.served(second)
    chain = space.served(referenced(first, second))
    fivefold.delete()
    item = chain.settled("Validated", "False", "ReferenceNotFound")
    assert any("fivefold" in each["message"] for each in item["status"]["conditions"] if each["type"] == "Validated")
    status, answer = post(chain, {"inputs": {"x": [[7]], "delay": [[0]]}})
    assert (status, answer["error"]["code"]) == (503, "remote_unavailable")
    assert "twice" in answer["error"]["message"]
    assert "fivefold" in answer["error"]["message"]
    space.served(second)
    chain.ready()
    eventually("answers again", lambda: chain.answer(7)[0], lambda y: y == 70, timeout=30)


def test_the_live_page_of_a_pod_is_seen_through_the_api_server(space: Space) -> None:
    chain = space.served(Chain())
    (pod,) = (each["metadata"]["name"] for each in chain.pods())
    place = ("-n", space.kubectl.namespace, "--kubeconfig", str(space.kubectl.kubeconfig))
    process = Podium(("status", chain.name, "--page", *place), {})
    try:
        address = process.says("/live").split()[1]
        page = httpx.get(address, timeout=30)
        assert page.status_code == 200
        assert all(f">{step}<" in page.text for step in ("once", "twice")), page.text[:2000]
        chain.answer(7)
        figures = httpx.get(f"{address}/figures", timeout=30).json()
        assert "Active" in json.dumps(figures), figures
        assert httpx.get(address.replace("/live", "x/live"), timeout=30).status_code == 404, "another pod"
        key = address.split("/")[3]
        assert httpx.get(address.replace(key, "guessed"), timeout=30).status_code == 404, "without the key"
        assert pod in address
    finally:
        process.stop()
