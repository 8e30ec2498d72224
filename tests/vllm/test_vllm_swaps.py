"""Two versions of a language model in one pod: shares of traffic, the flip under streams, what is counted of each.

The versions differ in their weights alone: at temperature 0 each says something of its own, so every answer shows who
gave it, whatever its header claims.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.runtime.serving.processes import RunningPod, running_pod, until
from tests.vllm.conftest import ENGINE_ARGS, LOAD_S, MODEL, command, descendants, is_alive, measured
from tests.vllm.tiny_llama import write_tiny_llama

from podium.cli.local_files import compile_texts
from podium_crds.assignment import Assignment, DrainPolicy, Generation, ResourceRef, Revision, TrafficTarget
from podium_crds.keys import HEADER_REQUEST_ID, HEADER_REVISION

pytestmark = pytest.mark.timeout(1200)
KEY = "a-key-of-the-team-search"
TOKENS = 16
TEXT = {"prompt": "Once upon a time", "max_tokens": TOKENS, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS, "temperature": 0}


@dataclass
class Pod:
    """A pod that holds both versions, and its clients' view of it."""

    process: RunningPod
    resource: ResourceRef
    first: Revision
    second: Revision
    client: openai.OpenAI
    sequence: int = 0

    def push(self, *revisions: Revision, promoted: Revision, **weights: int) -> None:
        """What the operator does; weights by `first` and `second`, all to the promoted one unless given."""
        self.sequence += 1
        shares = {getattr(self, name).name: weight for name, weight in weights.items()} or {promoted.name: 100}
        assignment = Assignment(
            generation=Generation(sequence=self.sequence),
            resource=self.resource,
            revisions=revisions,
            traffic=tuple(TrafficTarget(revision=name, weight=weight) for name, weight in shares.items()),
            promoted=promoted.name,
            drain=DrainPolicy(propagation_seconds=0, drain_timeout_seconds=30),
        )
        assert self.process.push(assignment).status_code == 200

    def divides(self, first: int, second: int) -> None:
        """Waits until traffic is shared like that."""

        def weight(revision: Revision) -> int:
            found = self.process.report().revision(revision.name)
            return found.weight if found else 0

        wanted = (first, second)
        until(lambda: (weight(self.first), weight(self.second)) == wanted, f"weights {wanted}", LOAD_S)

    def complete(self, model: str = "tiny") -> tuple[str, str]:
        """(revision, text) of a completion."""
        raw = self.client.completions.with_raw_response.create(model=model, **TEXT)
        return raw.headers[HEADER_REVISION], raw.parse().choices[0].text

    def chat(self, model: str = "tiny") -> tuple[str, str]:
        """(revision, text) of a chat that is streamed."""
        raw = self.client.chat.completions.with_raw_response.create(model=model, stream=True, **CHAT)
        chunks: Any = raw.parse()
        return raw.headers[HEADER_REVISION], "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def listed(self) -> dict[str, Any]:
        """What `/v1/models` says of the model."""
        headers = {"authorization": f"Bearer {KEY}"}
        (model,) = httpx.get(f"{self.process.url}/v1/models", headers=headers, timeout=30).json()["data"]
        return dict(model)

    def generated(self, revision: Revision) -> float:
        """Tokens that a revision's engine generated."""
        return measured(self.process.url, "podium_llm_generated_tokens_total", revision.name)

    def running(self, revision: Revision) -> float:
        """Sequences in a revision's engine."""
        return measured(self.process.url, "podium_llm_requests_running", revision.name)


def compiled(model: Path, version: str) -> tuple[ResourceRef, Revision]:
    """A version of `tiny`, as `podium serve` and the operator compile it."""
    text = MODEL.format(model=model, engine_args=ENGINE_ARGS).replace('version: "1"', f'version: "{version}"')
    (assignment,) = compile_texts({Path("tiny.yaml"): text}).assignments(1)
    return assignment.resource, assignment.revisions[0]


@pytest.fixture(scope="module")
def pod(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """Version 1 serves, version 2 is loaded beside it; API keys are asked for and answers logged."""
    other = write_tiny_llama(tmp_path_factory.mktemp("other"), max_positions=8192, seed=1)
    (resource, first), (_, second) = compiled(tiny_model, "1"), compiled(other, "2")
    folder = tmp_path_factory.mktemp("pod")
    (folder / "api-keys").write_text(f"search: {KEY}\n")
    environment = {
        "PODIUM_API_KEYS_PATH": str(folder / "api-keys"),
        "PODIUM_ACCESS_LOG": "true",
        "PODIUM_ARENA_BYTES": str(16 << 20),
        "TMPDIR": str(tmp_path_factory.mktemp("t", numbered=True)),
    }
    with running_pod(folder, **environment) as process, client_of(process.url) as client:
        pod = Pod(process, resource, first, second, client)
        pod.push(first, second, promoted=first)
        process.reports(lambda r: (f := r.revision(second.name)) is not None and f.state == "Ready", within_s=LOAD_S)
        pod.divides(100, 0)
        yield pod


@contextmanager
def client_of(url: str, key: str = KEY) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def said(pod: Pod) -> dict[str, set[str]]:
    """Revision → what it says to TEXT and to CHAT, asked for by version."""
    found = {}
    for revision in (pod.first, pod.second):
        answers = [ask(f"tiny@{revision.version}") for ask in (pod.complete, pod.chat)]
        assert {name for name, _ in answers} == {revision.name}
        found[revision.name] = {text for _, text in answers}
        until(lambda r=revision: pod.generated(r) >= 2 * TOKENS, "their tokens counted")
    assert found[pod.first.name].isdisjoint(found[pod.second.name]), "the weights differ"
    return found


def test_a_share_of_completions_and_chats_goes_to_the_candidate(pod: Pod, said: dict[str, set[str]]) -> None:
    pod.push(pod.first, pod.second, promoted=pod.first, first=75, second=25)
    pod.divides(75, 25)
    before = {revision.name: pod.generated(revision) for revision in (pod.first, pod.second)}
    for ask in (pod.complete, pod.chat):
        answers = [ask() for _ in range(20)]
        assert Counter(name for name, _ in answers) == {pod.first.name: 15, pod.second.name: 5}
        assert all(text in said[name] for name, text in answers)
    for revision, answered in ((pod.first, 30), (pod.second, 10)):
        grown = before[revision.name] + answered * TOKENS
        until(lambda r=revision, g=grown: pod.generated(r) >= g, "every token counted where it was generated")
        assert pod.generated(revision) == grown


def test_the_list_of_models_says_who_answers(pod: Pod) -> None:
    pod.push(pod.first, pod.second, promoted=pod.first, first=60, second=40)
    pod.divides(60, 40)
    listed = pod.listed()
    assert (listed["id"], listed["version"], listed["revision"]) == ("tiny", "1", pod.first.name)
    shares = {row["version"]: (row["state"], row["weight"]) for row in listed["revisions"]}
    assert shares == {"1": ("Active", 60), "2": ("Active", 40)}
    (model,) = pod.client.models.list().data
    assert model.id == "tiny", "one model, whatever its versions"


def test_a_flip_ends_no_stream_and_takes_every_new_request(pod: Pod, said: dict[str, set[str]]) -> None:
    pod.push(pod.first, pod.second, promoted=pod.first)
    pod.divides(100, 0)
    asked = {**TEXT, "max_tokens": 4000, "extra_body": {"ignore_eos": True}}
    alone = pod.client.completions.create(model="tiny@1", **asked).choices[0].text
    raw = pod.client.completions.with_raw_response.create(model="tiny", stream=True, **asked)
    assert raw.headers[HEADER_REVISION] == pod.first.name
    chunks: Any = iter(raw.parse())
    begun = next(chunks).choices[0].text

    pod.push(pod.second, pod.first, promoted=pod.second)
    pod.divides(0, 100)
    assert pod.listed()["version"] == "2"
    name, text = pod.complete()
    assert name == pod.second.name
    assert text in said[name]
    assert pod.running(pod.first) == 1, "the stream is still computed where it began"
    assert begun + "".join(chunk.choices[0].text for chunk in chunks) == alone


def test_the_version_that_goes_away_answers_first_what_it_has_begun(pod: Pod) -> None:
    """The last test with version 1."""
    pod.push(pod.first, pod.second, promoted=pod.first)
    pod.divides(100, 0)
    workers = {pid for pid in descendants(pod.process.pid) if "podium.worker.main" in command(pid)}
    stream = pod.client.completions.create(
        model="tiny", stream=True, **{**TEXT, "max_tokens": 4000}, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    pod.push(pod.second, promoted=pod.second)
    until(lambda: [row["version"] for row in pod.listed()["revisions"] if row["state"] == "Draining"] == ["1"], "drain")
    with pytest.raises(openai.NotFoundError, match="no version '1' loaded"):
        pod.complete("tiny@1")
    assert pod.complete()[0] == pod.second.name
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    until(lambda: [row["version"] for row in pod.listed()["revisions"]] == ["2"], "version 1 gone")
    until(lambda: sum(map(is_alive, workers)) == 1, "its worker gone")
    until(lambda: pod.first.name not in httpx.get(pod.process.url + "/metrics").text, "its series gone")


def test_without_a_key_nobody_is_answered(pod: Pod) -> None:
    with client_of(pod.process.url, "not-a-key-at-all") as stranger:
        for ask in (
            lambda: stranger.completions.create(model="tiny", **TEXT),
            lambda: stranger.chat.completions.create(model="tiny", stream=True, **CHAT),
        ):
            with pytest.raises(openai.AuthenticationError) as caught:
                ask()
            assert (caught.value.type, caught.value.code) == ("authentication_error", "unauthorized")


@pytest.mark.parametrize("stream", [False, True])
def test_ids_come_back_and_into_the_log(pod: Pod, stream: bool) -> None:
    trace, request_id = os.urandom(16).hex(), f"asked-{stream}-{os.getpid()}"
    headers = {HEADER_REQUEST_ID: request_id, "traceparent": f"00-{trace}-00f067aa0ba902b7-01", "tracestate": "a=b"}
    raw = pod.client.completions.with_raw_response.create(model="tiny", stream=stream, extra_headers=headers, **TEXT)
    if stream:
        list(raw.parse())
    assert raw.headers[HEADER_REQUEST_ID] == request_id
    assert raw.headers["traceparent"].split("-")[1] == trace
    assert raw.headers["tracestate"] == "a=b"
    logged = json.loads(pod.process.says(f'"request_id":"{request_id}"'))
    assert (logged["path"], logged["status"], logged["key"]) == ("/v1/completions", 200, "search")
    assert (logged["trace_id"], logged["revision"]) == (trace, raw.headers[HEADER_REVISION])


def test_a_refused_request_has_its_ids_too(pod: Pod) -> None:
    headers = {HEADER_REQUEST_ID: "refused-1"}
    with pytest.raises(openai.BadRequestError) as caught:
        pod.client.completions.create(model="tiny", extra_headers=headers, **{**TEXT, "max_tokens": -1})
    assert caught.value.response.headers[HEADER_REQUEST_ID] == "refused-1"
    assert caught.value.response.headers[HEADER_REVISION] == pod.second.name
    assert caught.value.request_id == "refused-1", "as the client finds it"
    assert json.loads(pod.process.says('"request_id":"refused-1"'))["status"] == 400
