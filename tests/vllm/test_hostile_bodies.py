"""Bodies that no client should send: each is answered in the OpenAI API's form, and costs nobody else anything."""

import json
from typing import Any

import httpx
import pytest
from tests.runtime.serving.processes import until
from tests.vllm.conftest import Served

pytestmark = pytest.mark.timeout(600)
COMPLETION = {"model": "tiny", "prompt": "ab", "max_tokens": 2}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
HOSTILE: tuple[dict[str, Any], ...] = (
    {"n": 10**9},
    {"n": 257},
    {"n": "257"},
    {"n": 257.0},
    {"n": 10**30},
    {"n": 0},
    {"n": "many"},
    {"n": 200, "prompt": ["a", "b"]},
    {"n": 200, "use_beam_search": True},
    {"max_tokens": 10**12},
    {"max_tokens": 10**30},
    {"max_tokens": -1},
    {"max_tokens": [1]},
    {"min_tokens": 10},
    {"logprobs": 10**6},
    {"logprobs": "many"},
    {"prompt_logprobs": 10**6},
    {"temperature": 1e308},
    {"top_p": 2},
    {"top_k": -5},
    {"seed": 2**80},
    {"stop": ["x"] * 10_000},
    {"stop_token_ids": [10**12]},
    {"allowed_token_ids": [10**9]},
    {"logit_bias": {"999999": 100}},
    {"logit_bias": {"x": 1}},
    {"prompt": []},
    {"prompt": [[]]},
    {"prompt": [-1]},
    {"prompt": [2**40]},
    {"prompt": {"a": 1}},
    {"prompt": ["x"] * 257},
    {"prompt": [1] * 1_000_000},
    {"prompt_embeds": "AAAA"},
    {"truncate_prompt_tokens": 10**9},
    {"cache_salt": "x" * 1_000_000},
    {"stream": "perhaps"},
    {"stream": True, "max_tokens": 10**12},
    {"stream": True, "stream_options": "x"},
    {"structured_outputs": {"choice": ["x" * 100] * 5_000}},
    {"structured_outputs": {"regex": "a" * 100_000}},
    {"structured_outputs": {"regex": "("}},
    {"structured_outputs": {"grammar": "root ::= " + "(" * 5_000}},
)
HOSTILE_CHATS: tuple[dict[str, Any], ...] = (
    {"messages": []},
    {"messages": "x"},
    {"messages": [1]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "user", "content": "x"}] * 5_000},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/metrics"}}]}
        ]
    },
    {"n": 257},
    {"max_completion_tokens": 10**30},
    {"logprobs": True, "top_logprobs": 10**6},
    {"chat_template": "{{ ''.__class__ }}"},
    {"response_format": {"type": "nope"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["x" * 90] * 1_000}}}},
    {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 300_000}}]},
)


def nested(depth: int) -> bytes:
    return b'{"model": "tiny", "max_tokens": 1, "prompt": "x", "user": %b%b}' % (b"[" * depth, b"]" * depth)


def refused(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer that blames the request."""
    assert answer.status_code == 400, answer.text[:300]
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"]
    assert {"type", "param", "code"} <= error.keys()
    return error


def shown(change: dict[str, Any]) -> str:
    return json.dumps(change)[:40]


@pytest.mark.parametrize("change", HOSTILE, ids=shown)
def test_a_completion_that_asks_for_too_much_or_nonsense(served: Served, change: dict[str, Any]) -> None:
    refused(httpx.post(f"{served.url}/v1/completions", json={**COMPLETION, **change}, timeout=30))


@pytest.mark.parametrize("change", HOSTILE_CHATS, ids=shown)
def test_a_chat_that_asks_for_too_much_or_nonsense(served: Served, change: dict[str, Any]) -> None:
    refused(httpx.post(f"{served.url}/v1/chat/completions", json={**CHAT, **change}, timeout=30))


@pytest.mark.parametrize(
    "body",
    [
        nested(2_000),
        nested(100_000),
        b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "x", "temperature": 1e400}',
        b'{"model": "tiny", "prompt": "x", "temperature": ' + b"9" * 5_000 + b"}",
        b'{"model": "tiny", "prompt": "x", "n": ' + b"9" * 5_000 + b"}",
        b'{"model": "tiny", "prompt": "x", "n": 1, "n": 300}',
        b'\xef\xbb\xbf{"model": "tiny", "prompt": "x"}',
    ],
    ids=lambda body: body[:40].decode(errors="replace"),
)
def test_json_that_parsers_stumble_over(served: Served, body: bytes) -> None:
    refused(httpx.post(f"{served.url}/v1/completions", content=body, timeout=30))


def test_what_the_engine_fails_on_is_an_error_with_words(served: Served) -> None:
    """vLLM itself says nothing about a number that its own messages cannot carry."""
    answer = httpx.post(f"{served.url}/v1/completions", json={**COMPLETION, "top_k": 10**20}, timeout=30)
    assert answer.status_code >= 400
    assert answer.json()["error"]["message"]


def test_hostile_bodies_disturb_no_stream_and_leave_nothing_behind(served: Served) -> None:
    worker = served.worker()
    asked = {"model": "tiny", "prompt": "Once", "max_tokens": 600, "temperature": 0, "extra_body": {"ignore_eos": True}}
    alone = served.client.completions.create(**asked).choices[0].text
    stream = served.client.completions.create(**asked, stream=True)
    chunks = iter(stream)
    said = next(chunks).choices[0].text
    for change in HOSTILE:
        httpx.post(f"{served.url}/v1/completions", json={**COMPLETION, **change}, timeout=30)
    assert said + "".join(chunk.choices[0].text for chunk in chunks) == alone
    until(lambda: served.measure("podium_llm_requests_running") == 0, "no request running")
    assert served.measure("podium_llm_requests_waiting") == 0
    assert served.worker() == worker
