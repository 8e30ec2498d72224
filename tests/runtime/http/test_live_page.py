"""The live page without a browser: who gets it, what its policy allows, what becomes of hostile names."""

import base64
import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.runtime.serving.builders import a_revision, an_assignment
from tests.runtime.serving.processes import KEY, RunningPod, running_pod

from podium.http.live.page import document
from podium.http.live.view import Shown, structure_of
from podium.http.live.words import duration, failures, rate
from podium_crds.assignment import Graph, ResourceKind, ResourceRef, Step, StepInput
from podium_crds.keys import ADMIN_FIGURES_PATH, ADMIN_PAGE_PATH, HEADER_ADMIN_TOKEN
from podium_crds.token import admin_token

HOSTILE = """'"></text></title></script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">&amp;"""


def hostile() -> list[Shown]:
    """A revision as no API server lets it through: every name is markup."""
    edge = StepInput.model_construct(name=HOSTILE, source=f"request.{HOSTILE}", from_first=None, value=None)
    out = StepInput.model_construct(name=HOSTILE, source=f"{HOSTILE.replace('.', '')}.y", from_first=None, value=None)
    step = Step.model_construct(name=HOSTILE.replace(".", ""), model=HOSTILE, inputs=(edge,), when=None)
    resource = ResourceRef.model_construct(kind=ResourceKind.PIPELINE, namespace=HOSTILE, name=HOSTILE)
    spec = SimpleNamespace(name=HOSTILE, version=HOSTILE, graph=Graph.model_construct(steps=(step,), outputs=(out,)))
    hosted: Any = SimpleNamespace(spec=spec, live=object())
    resident: Any = SimpleNamespace(resource=resource, weight=lambda _: 100)
    return [Shown("r0.0", resident, hosted)]


def test_what_anybody_named_is_text_and_nothing_else() -> None:
    page = document(hostile(), structure_of(hostile()))
    for tag in ("<script>window", "<img", "</title></script>", 'onerror="'):
        assert tag not in page
    assert page.count("&lt;script&gt;window.pwned=1&lt;/script&gt;") >= 5
    assert page.count("<script>") == 1


def test_the_policy_names_the_pages_own_style_and_script_and_nothing_else() -> None:
    page = document(hostile(), "s")
    (style,), (script,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("style", "script"))
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in (style, script)]
    found = re.search(r'http-equiv=content-security-policy content="([^"]*)"', page)
    assert found is not None
    policy = dict(each.strip().split(" ", 1) for each in found[1].replace("&#x27;", "'").split(";"))
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digests[0]}'",
        "script-src": f"'sha256-{digests[1]}'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


@pytest.fixture
def pod(tmp_path: Path) -> Any:
    with running_pod(tmp_path) as running:
        yield running


def test_in_a_pod_the_page_is_for_the_bearer_of_the_token(pod: RunningPod) -> None:
    assert pod.push(an_assignment(1, a_revision(1))).status_code == 200
    pod.serves("scale-1")
    token = {HEADER_ADMIN_TOKEN: admin_token(KEY, pod.uid)}
    for path in (ADMIN_PAGE_PATH, ADMIN_FIGURES_PATH):
        for wrong in ({}, {HEADER_ADMIN_TOKEN: admin_token(KEY, "another")}, {"authorization": "Basic eDp5"}):
            refused = httpx.get(pod.admin_url + path, headers=wrong)
            assert refused.status_code == 401
            assert "scale" not in refused.text
        assert httpx.get(pod.url + path).status_code == 404, "the data port knows nothing of it"
    page = httpx.get(pod.admin_url + ADMIN_PAGE_PATH, headers=token)
    assert page.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert "scale-1" in page.text
    secrets = (KEY.decode(), token[HEADER_ADMIN_TOKEN])
    assert not any(secret in page.text for secret in secrets)
    as_json = httpx.get(pod.admin_url + ADMIN_PAGE_PATH, headers={**token, "accept": "application/json"})
    assert as_json.json() == {"html": page.text}
    figures = httpx.get(pod.admin_url + ADMIN_FIGURES_PATH, headers=token).json()
    assert f'data-structure="{figures["structure"]}"' in page.text
    assert figures["texts"]["r0.0/state"] == "Active"
    assert set(re.findall(r'data-figure="([^"]+)"', page.text)) <= figures["texts"].keys()


def test_on_a_laptop_only_its_own_address_answers(server: Any) -> None:
    address = server.says("live page on").split()[3]
    assert httpx.get(address).status_code == 200
    origin, key = address.removesuffix("/live").rsplit("/", 1)
    for path in ("/live", f"/{key[:-1]}/live", f"/{key}x/live/figures", f"/{key}", "/", ADMIN_PAGE_PATH):
        refused = httpx.get(origin + path)
        assert refused.status_code == 404
        assert "scale" not in refused.text
    assert httpx.get(f"{address}/figures").json()["texts"]["ready"] == "ready"
    assert httpx.put(address).status_code == 405


@pytest.mark.parametrize(
    ("per_s", "words"),
    [
        (None, "—"),
        (0, "0/s"),
        (0.01, "< 0.1/s"),
        (0.42, "0.4/s"),
        (99.94, "99.9/s"),
        (250.4, "250/s"),
        (1234, "1.2k/s"),
    ],
)
def test_rates_in_words(per_s: float | None, words: str) -> None:
    assert rate(per_s) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "—"), (0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.9994, "999 ms"), (1.26, "1.3 s"), (float("inf"), "> 30 s")],
)
def test_durations_in_words(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_where_nothing_fails_nothing_is_said() -> None:
    assert (failures(None), failures(0.0), failures(2.0)) == ("", "", "2.0/s failing")
