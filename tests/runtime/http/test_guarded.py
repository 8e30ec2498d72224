"""API keys and the access log, on a server of their own."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.runtime.http.conftest import YAML
from tests.runtime.http.test_hostile_requests import GOOD, PREDICT
from tests.runtime.serving.processes import Server, served, until
from typer.testing import CliRunner

from podium.cli.commands import app
from podium.client import Client

ALICE = "alice-" + "a" * 20
BOB = "bob-" + "b" * 20


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a Secret's mount."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "alice").write_text(ALICE + "\n")
    (folder / "short").write_text("too-short")
    return folder


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Server]:
    one_model = "---\n".join(YAML.split("---\n")[:2])
    environment = {"PODIUM_API_KEYS_PATH": str(keys), "PODIUM_ACCESS_LOG": "true"}
    with served(tmp_path_factory.mktemp("guarded"), one_model, arena_mib=8, **environment) as server:
        yield server


def ask(server: Server, path: str = PREDICT, **headers: str) -> httpx.Response:
    return httpx.post(server.url + path, json=GOOD, headers={name.replace("_", "-"): v for name, v in headers.items()})


def test_a_request_without_a_known_key_is_401(guarded: Server) -> None:
    for headers in ({}, {"authorization": f"Basic {ALICE}"}, {"x_api_key": "wrong" * 5}, {"x_api_key": "too-short"}):
        answer = ask(guarded, **headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == 'Bearer realm="podium"'
    assert ask(guarded, "/v2/models/scale/infer").status_code == 401
    assert ask(guarded, "/v1/models/made-up:predict").status_code == 401


def test_either_header_carries_a_key(guarded: Server) -> None:
    assert ask(guarded, authorization=f"Bearer {ALICE}").status_code == 200
    assert ask(guarded, authorization=f"bearer {ALICE}").status_code == 200
    assert ask(guarded, x_api_key=ALICE).status_code == 200


def test_keys_are_taken_on_and_given_up_without_a_restart(guarded: Server, keys: Path) -> None:
    (keys / "bob").write_text(BOB)
    until(lambda: ask(guarded, x_api_key=BOB).status_code == 200, "the new key opens")
    (keys / "bob").unlink()
    until(lambda: ask(guarded, x_api_key=BOB).status_code == 401, "the old key is refused")
    assert ask(guarded, x_api_key=ALICE).status_code == 200


def test_a_key_that_is_given_up_opens_nothing_on_a_connection_that_it_had_opened(tmp_path: Path) -> None:
    """Without an access log, requests with a key take the express lane."""
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "alice").write_text(ALICE)
    one_model = "---\n".join(YAML.split("---\n")[:2])
    with served(tmp_path, one_model, arena_mib=8, PODIUM_API_KEYS_PATH=str(folder)) as server:
        with httpx.Client(base_url=server.url, headers={"x-api-key": ALICE}) as client:
            for _ in range(3):
                assert client.post(PREDICT, json=GOOD).status_code == 200
            (folder / "alice").unlink()
            until(lambda: client.post(PREDICT, json=GOOD).status_code == 401, "the key is refused")
            for _ in range(3):
                assert client.post(PREDICT, json=GOOD).status_code == 401
        assert ask(server).status_code == 401


def test_the_client_and_podium_call_carry_a_key(guarded: Server, keys: Path) -> None:
    with Client(guarded.url, api_key=ALICE) as client:
        assert client.predict("scale", {"x": [[1, 2, 3]]}).outputs["y"]["data"] == [[2, 4, 6]]
    arguments = ["call", "scale", "-i", "x=[[1,2,3]]", "--url", guarded.url]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert CliRunner().invoke(app, [*arguments, "--api-key-file", str(keys / "alice")]).exit_code == 0


def test_health_and_metrics_stay_open(guarded: Server) -> None:
    for path in ("/health/ready", "/metrics", "/v1/models", "/v2/models/scale"):
        assert httpx.get(guarded.url + path).status_code == 200


def test_the_index_wants_a_key_since_it_tells_of_versions_that_are_not_served_too(guarded: Server) -> None:
    refused = httpx.post(guarded.url + "/v2/repository/index")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    headers = {"x-api-key": ALICE, "x-request-id": "the-index"}
    [entry] = httpx.post(guarded.url + "/v2/repository/index", headers=headers).json()
    assert (entry["name"], entry["state"]) == ("scale", "READY")
    line = until(lambda: next((line for line in guarded.lines if "the-index" in line), None), "the line")
    assert "alice" in line
    document = httpx.get(guarded.url + "/openapi.json").json()
    assert document["paths"]["/v2/repository/index"]["post"]["security"]
    assert "security" not in document["paths"]["/v2"]["get"]


def test_the_access_log_names_the_key_and_shows_neither_key_nor_payload(guarded: Server) -> None:
    answer = ask(guarded, x_api_key=ALICE, x_request_id="find-me")
    line = until(lambda: next((line for line in guarded.lines if "find-me" in line), None), "the line")
    for fact in (PREDICT, "200", "alice", answer.headers["traceparent"].split("-")[1], "scale"):
        assert fact in line
    everything = "\n".join(guarded.lines)
    assert ALICE not in everything
    assert json.dumps(GOOD["inputs"]["x"]) not in everything
