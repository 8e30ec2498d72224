"""Answers that do not run to their end, for a deadline or a client that left: vLLM stops computing them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from tests.runtime.serving.processes import until
from tests.vllm.conftest import Served

pytestmark = pytest.mark.timeout(600)
ENDLESS = {"prompt": "Once", "max_tokens": 8000, "extra_body": {"ignore_eos": True}}
TIMEOUT_S = 2


def completion(served: Served, **more: Any) -> Any:
    return served.client.completions.create(model="tiny", **{**ENDLESS, **more})


def chat(served: Served, **more: Any) -> Any:
    asked = {name: value for name, value in ENDLESS.items() if name != "prompt"}
    messages: Any = [{"role": "user", "content": "Once"}]
    return served.client.chat.completions.create(model="tiny", messages=messages, **{**asked, **more})


BOTH = pytest.mark.parametrize("ask", [completion, chat], ids=["completions", "chat"])
Ask = Callable[..., Any]


def nothing_runs(served: Served) -> bool:
    return served.measure("podium_llm_requests_running") == 0 and served.measure("podium_llm_requests_waiting") == 0


def assert_stopped(served: Served) -> None:
    """vLLM has no request left, and computes none: only the tokens of the next one are counted."""
    until(lambda: nothing_runs(served), "no request running")
    generated = served.measure("podium_llm_generated_tokens_total")
    completion(served, prompt="x", max_tokens=1)
    until(lambda: served.measure("podium_llm_generated_tokens_total") > generated, "the later request counted")
    assert served.measure("podium_llm_generated_tokens_total") < generated + 100, "the one that was ended went on"


@pytest.fixture
def short(served: Served) -> Iterator[Served]:
    """With a timeout that a long answer exceeds: a change of settings, which the loaded worker takes on."""
    text, before, worker = served.file.read_text(), served.revision(), served.worker()
    served.file.write_text(text.replace("timeoutSeconds: 300", f"timeoutSeconds: {TIMEOUT_S}"))
    until(lambda: served.revision() != before, "the shorter timeout in force")
    assert served.worker() == worker
    yield served
    served.file.write_text(text)
    until(lambda: served.revision() == before, "the longer timeout in force")


@BOTH
def test_a_deadline_that_passes_in_a_stream_ends_it_and_says_so(short: Served, ask: Ask) -> None:
    chunks = iter(ask(short, stream=True))
    assert next(chunks).choices, "tokens flow"
    with pytest.raises(openai.APIError) as caught:
        list(chunks)
    assert (caught.value.code, caught.value.type) == ("deadline_exceeded", "server_error")
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert_stopped(short)


def test_the_events_before_a_deadline_are_whole_and_no_done_follows(short: Served) -> None:
    asked = {"model": "tiny", "prompt": "Once", "max_tokens": 8000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{short.url}/v1/completions", json=asked, timeout=60) as response:
        assert response.status_code == 200
        events = b"".join(response.iter_raw()).split(b"\n\n")
    assert events[-1] == b""
    assert all(event.startswith(b'data: {"id"') for event in events[:-2])
    assert events[-2].startswith(b'data: {"error":')
    assert b"deadline_exceeded" in events[-2]


@BOTH
def test_a_deadline_that_passes_before_an_answer_is_a_504(short: Served, ask: Ask) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(short)
    assert caught.value.status_code == 504
    assert caught.value.code == "deadline_exceeded"
    assert_stopped(short)


def test_a_request_that_waits_in_the_engine_has_a_deadline_too(short: Served) -> None:
    """Eight run at once; what comes beside them waits, and is not begun once its time is over."""
    streams = [completion(short, stream=True) for _ in range(9)]
    until(lambda: short.measure("podium_llm_requests_waiting") > 0 or nothing_runs(short), "one to wait")
    for stream in streams:
        with pytest.raises(openai.APIError, match="deadline"):
            list(stream)
    assert_stopped(short)


@BOTH
def test_a_client_that_leaves_a_stream_of_several_choices(served: Served, ask: Ask) -> None:
    stream = ask(served, stream=True, n=3)
    next(iter(stream))
    until(lambda: served.measure("podium_llm_requests_running") == 3, "three sequences running")
    stream.close()
    assert_stopped(served)


def test_clients_that_leave_while_they_wait(served: Served) -> None:
    """Nothing is running for them yet; that they are gone must be noticed all the same."""
    streams = [completion(served, stream=True) for _ in range(8)]
    for stream in streams:
        next(iter(stream))
    asked = {"model": "tiny", "prompt": "Once", "max_tokens": 8000, "ignore_eos": True, "stream": True}
    with (
        httpx.Client(timeout=httpx.Timeout(30, read=1.0)) as client,
        pytest.raises(httpx.ReadTimeout),
        client.stream("POST", f"{served.url}/v1/completions", json=asked),
    ):
        pass
    until(lambda: served.measure("podium_llm_requests_waiting") == 0, "nobody waiting")
    assert served.measure("podium_llm_requests_running") == 8, "those that are read go on"
    for stream in streams:
        stream.close()
    assert_stopped(served)


def test_a_deadline_leaves_room_for_who_comes_next(short: Served) -> None:
    began = time.monotonic()
    with pytest.raises(openai.APIError):
        list(completion(short, stream=True))
    assert time.monotonic() - began >= TIMEOUT_S
    assert completion(short, prompt="x", max_tokens=2).usage.completion_tokens == 2
