"""Bodies and errors of the OpenAI routes, without an engine."""

import json

import pytest

from podium.errors import InvalidInput, WorkerDied
from podium.http.errors import answer_for
from podium.http.openai import asked_model, error_event, failed_at_once, openai_error


def test_the_model_is_read_and_the_rest_left_to_the_engine() -> None:
    assert asked_model(b'{"prompt": [1, {"deep": []}], "model": "tiny@2", "model_kwargs": 1}') == "tiny@2"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"model": null}', b'{"model": ""}', b'{"model": "' + b"m" * 600 + b'"}']
)
def test_a_body_without_a_model_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="model"):
        asked_model(body)


@pytest.mark.parametrize(
    ("asked", "is_taken"),
    [
        ({"prompt": ["x"] * 256}, True),
        ({"prompt": ["x"] * 257}, False),
        ({"prompt": [[1, 2]] * 257}, False),
        ({"prompt": [1] * 5000}, True),
        ({"prompt": [], "n": 2}, True),
        ({"prompt": ["x"] * 100, "n": 3}, False),
        ({"messages": [], "n": 257}, False),
        ({"messages": [], "n": "many"}, True),
    ],
)
def test_one_request_asks_for_a_bounded_number_of_answers(asked: dict[str, object], is_taken: bool) -> None:
    body = json.dumps({"model": "tiny", **asked}).encode()
    if is_taken:
        assert asked_model(body) == "tiny"
    else:
        with pytest.raises(InvalidInput, match="expected at most 256"):
            asked_model(body)


def test_an_error_has_the_fields_that_clients_read() -> None:
    answer = openai_error(answer_for(WorkerDied("the worker ended", started=True, retry_after_s=2.0)), "r-1")
    error = json.loads(answer.body)["error"]
    assert answer.status == 503
    assert (b"retry-after", b"2") in answer.headers
    assert (error["type"], error["code"], error["request_id"]) == ("overloaded_error", "worker_died", "r-1")
    assert error["param"] is None


def test_a_broken_stream_ends_in_one_whole_event() -> None:
    event = error_event(answer_for(WorkerDied("the worker ended", started=True)), "r-1")
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "worker_died"


def test_an_error_as_the_first_event_gets_its_status_back() -> None:
    body = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'
    answer = failed_at_once(b"data: " + body + b"\n\ndata: [DONE]\n\n")
    assert answer is not None
    assert (answer.status, answer.body) == (400, body)


@pytest.mark.parametrize(
    "event", [b"", b'data: {"id": "x"}\n\n', b'data: {"error": "x"}\n\n', b'data: {"error": {"code": 7}}\n\n']
)
def test_any_other_first_event_is_left_alone(event: bytes) -> None:
    assert failed_at_once(event) is None
