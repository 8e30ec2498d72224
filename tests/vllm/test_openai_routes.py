"""The OpenAI routes with vLLM behind them, driven by the real client."""

import httpx
import openai
import pytest
from tests.runtime.serving.processes import until
from tests.vllm.conftest import Served

pytestmark = pytest.mark.timeout(600)
PROMPT = "Once upon a time"
HELLO = [{"role": "user", "content": "hello"}]


def test_a_completion_has_text_usage_and_a_reason_to_end(served: Served) -> None:
    answer = served.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8, temperature=0)
    assert answer.model == "tiny"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].text
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 8)


def test_a_stream_says_what_the_whole_answer_says(served: Served) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    whole = served.client.completions.create(**asked).choices[0].text
    chunks = list(served.client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) <= {None}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_chat_begins_with_its_role_and_ends_with_its_usage(served: Served) -> None:
    chunks = list(
        served.client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            max_tokens=6,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6
    whole = served.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=6, temperature=0)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content


def test_the_events_end_as_the_protocol_says(served: Served) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 3, "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=asked, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["podium-revision"].startswith("tiny-")
        body = b"".join(response.iter_raw())
    assert body.endswith(b"data: [DONE]\n\n")
    assert all(event.startswith(b"data: ") for event in body.removesuffix(b"\n\n").split(b"\n\n"))


def test_choices_stops_and_logprobs_are_vllms(served: Served) -> None:
    answer = served.client.completions.create(model="tiny", prompt=[PROMPT, "x"], max_tokens=4, n=2, logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.logprobs is not None for choice in answer.choices)
    whole = served.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=32, temperature=0).choices[0].text
    stop = whole[3:5]
    stopped = served.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=32, temperature=0, stop=stop)
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == whole[: whole.index(stop)]


def test_the_models_are_listed_as_the_client_reads_them(served: Served) -> None:
    (model,) = served.client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "default")
    assert model.created > 0
    assert served.client.models.retrieve("tiny").id == "tiny"


def test_a_version_is_asked_for_by_name(served: Served) -> None:
    assert served.client.completions.create(model="tiny@1", prompt="x", max_tokens=1).choices
    with pytest.raises(openai.NotFoundError, match="no version '9' loaded; loaded: 1"):
        served.client.completions.create(model="tiny@9", prompt="x", max_tokens=1)


def test_errors_have_the_status_and_the_body_that_the_client_knows(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        served.client.completions.create(model="nobody", prompt="x")
    assert "served: tiny" in str(unknown.value)
    assert unknown.value.type == "not_found_error"
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        served.client.completions.create(model="tiny", prompt="x" * 9000, max_tokens=1)
    with pytest.raises(openai.BadRequestError):
        served.client.completions.create(model="tiny", prompt="x", max_tokens=1, temperature=-1)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        served.client.completions.create(model="tiny", prompt="x" * 9000, max_tokens=1, stream=True)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 3}', b'{"prompt": "x"}', b'{"model": ""}', b"\xff\xfe"])
def test_a_body_without_a_model_is_refused_before_any_worker(served: Served, body: bytes) -> None:
    answer = httpx.post(f"{served.url}/v1/completions", content=body, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_other_methods_are_refused(served: Served) -> None:
    answer = httpx.get(f"{served.url}/v1/chat/completions", timeout=30)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


def test_named_tensors_are_refused_with_where_to_go(served: Served) -> None:
    answer = httpx.post(f"{served.url}/v1/models/tiny:predict", json={"inputs": {"x": [1]}}, timeout=30)
    assert 400 <= answer.status_code < 500, answer.text


def test_tokens_and_latencies_are_counted_by_model_and_revision(served: Served) -> None:
    generated = served.measure("podium_llm_generated_tokens_total")
    prompted = served.measure("podium_llm_prompt_tokens_total")
    served.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=10)
    until(lambda: served.measure("podium_llm_generated_tokens_total") >= generated + 10, "ten tokens more")
    assert served.measure("podium_llm_prompt_tokens_total") >= prompted + len(PROMPT)
    assert served.measure("podium_llm_time_to_first_token_seconds_count") > 0
    assert served.measure("podium_llm_inter_token_seconds_count") > 0
    text = httpx.get(served.url + "/metrics", timeout=30).text
    assert 'podium_llm_requests_running{member="tiny",model="tiny",revision="tiny-' in text


def test_many_streams_share_the_engine(served: Served) -> None:
    asked = {"model": "tiny", "max_tokens": 64, "temperature": 0, "extra_body": {"ignore_eos": True}}
    alone = [served.client.completions.create(**asked, prompt=f"{n}. ").choices[0].text for n in range(6)]
    streams = [served.client.completions.create(**asked, prompt=f"{n}. ", stream=True) for n in range(6)]
    said = ["" for _ in streams]
    for number, stream in enumerate(streams):
        said[number] = "".join(chunk.choices[0].text for chunk in stream)
    assert said == alone


def test_a_client_that_leaves_a_stream_has_its_request_aborted(served: Served) -> None:
    stream = served.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=8000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    until(lambda: served.measure("podium_llm_requests_running") == 1, "one request running")
    stream.close()
    until(lambda: served.measure("podium_llm_requests_running") == 0, "no request running")
    generated = served.measure("podium_llm_generated_tokens_total")
    served.client.completions.create(model="tiny", prompt="x", max_tokens=1)
    until(lambda: served.measure("podium_llm_generated_tokens_total") > generated, "the later request counted")
    assert served.measure("podium_llm_generated_tokens_total") < generated + 100, "the aborted one went on"


def test_a_client_that_leaves_before_an_answer_has_its_request_aborted(served: Served) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8000, "ignore_eos": True}
    with httpx.Client(timeout=httpx.Timeout(30, read=1.0)) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{served.url}/v1/completions", json=asked)
    until(lambda: served.measure("podium_llm_requests_running") == 0, "no request running")
