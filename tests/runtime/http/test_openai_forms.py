"""Bodies and errors of the OpenAI routes, without an engine."""

import json

import pytest

from podium.errors import InvalidInput, WorkerDied
from podium.http.inference.openai_body import MAX_GRAMMAR_BYTES, MAX_TOOLS_BYTES, asked_model
from podium.http.inference.openai_errors import error_event, failed_at_once, openai_error, shaped
from podium.http.transport.asgi import Answer
from podium.http.transport.errors import answer_for


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
        ({"messages": [], "n": "257"}, False),
        ({"messages": [], "n": " 2_57 "}, False),
        ({"messages": [], "n": "257.0"}, False),
        ({"messages": [], "n": 257.0}, False),
        ({"messages": [], "n": "9" * 5000}, False),
        ({"messages": [], "n": 10**400}, False),
        ({"prompt": ["x"] * 200, "n": True}, True),
        ({"prompt": ["x"] * 200, "n": -5}, True),
        ({"prompt": ["x"] * 257, "n": 0}, False),
        ({"messages": [], "n": float("nan")}, False),
    ],
)
def test_one_request_asks_for_a_bounded_number_of_answers(asked: dict[str, object], is_taken: bool) -> None:
    body = json.dumps({"model": "tiny", **asked}).encode()
    if is_taken:
        assert asked_model(body) == "tiny"
    else:
        with pytest.raises(InvalidInput, match=r"expected at most 256|invalid character|out of range"):
            asked_model(body)


@pytest.mark.parametrize(
    ("name", "most"),
    [("response_format", MAX_GRAMMAR_BYTES), ("structured_outputs", MAX_GRAMMAR_BYTES), ("tools", MAX_TOOLS_BYTES)],
)
def test_what_engines_compile_has_a_size(name: str, most: int) -> None:
    def body(size: int) -> bytes:
        return b'{"model": "tiny", "%b": "%b"}' % (name.encode(), b"x" * (size - 2))

    assert asked_model(body(most)) == "tiny"
    with pytest.raises(InvalidInput, match=f'"{name}" has {most + 1} bytes; expected at most {most}'):
        asked_model(body(most + 1))


@pytest.mark.parametrize("where", [b'"prompt": %b', b'"unknown": %b'])
def test_a_body_that_nests_without_end_is_refused(where: bytes) -> None:
    nest = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(InvalidInput, match="nested too deeply"):
        asked_model(b'{"model": "tiny", %b}' % (where % nest))


def test_what_is_wrong_with_a_body_is_a_bad_request_to_clients_of_this_api() -> None:
    answer = openai_error(answer_for(InvalidInput("no")), "r-1")
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"detail":"There was an error parsing the body"}', "There was an error parsing the body"),
        (b'{"error":{"message":"","type":"InternalServerError","param":null,"code":500}}', "does not say why"),
        (b'{"error":"broken"}', "does not say why"),
        (b"Internal Server Error", "does not say why"),
        (b"", "does not say why"),
        (b"[" * 100_000, "does not say why"),
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_an_error_that_clients_cannot_read_is_put_into_their_form(status: int, body: bytes, words: str) -> None:
    answer = shaped(Answer(status, body, b"text/plain"), "r-1")
    error = json.loads(answer.body)["error"]
    assert (answer.status, answer.content_type) == (status, b"application/json")
    assert words in error["message"]
    assert error["request_id"] == "r-1"


@pytest.mark.parametrize(
    ("status", "body"), [(200, b'{"detail": "x"}'), (400, b'{"error":{"message":"too long","code":400}}')]
)
def test_what_the_engine_says_well_is_left_alone(status: int, body: bytes) -> None:
    answer = Answer(status, body, b"application/json")
    assert shaped(answer, "r-1") is answer


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
