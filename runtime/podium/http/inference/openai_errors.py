"""Errors as clients of the OpenAI API read them: a body with `error`, or a stream's last event."""

from math import ceil

import msgspec
import orjson

from podium.http.transport.asgi import JSON, Answer
from podium.http.transport.errors import ErrorAnswer

EVENT_END = b"\n\n"
ERROR_EVENT = b'data: {"error"'
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "overloaded_error"}


class _Error(msgspec.Struct):
    """As vLLM has it: the code is the status."""

    code: int


class _Failed(msgspec.Struct):
    """An error event."""

    error: _Error


class _Words(msgspec.Struct):
    """What clients show of an error."""

    message: str = ""


class _Told(msgspec.Struct):
    """An error as an engine writes it, or as the framework under it does."""

    error: _Words | None = None
    detail: object = None


_FAILED = msgspec.json.Decoder(_Failed)
_TOLD = msgspec.json.Decoder(_Told)
_SILENT = "the engine could not answer and does not say why; most likely a value of the request is out of range"


def openai_error(error: ErrorAnswer, request_id: str) -> Answer:
    """The error body of the OpenAI API, with the request id beside. What is wrong with a body is 400 there, not 422."""
    headers = list(error.headers)
    status = 400 if error.status == 422 else error.status
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()))
    return Answer(status, orjson.dumps({"error": _error_object(error, request_id)}), JSON, tuple(headers))


def failed_at_once(event: bytes) -> Answer | None:
    """The answer that an error means where it is a stream's first event: its status can still be told."""
    if not event.startswith(ERROR_EVENT):
        return None
    body = event.removeprefix(b"data: ").partition(EVENT_END)[0]
    try:
        code = _FAILED.decode(body).error.code
    except msgspec.DecodeError:
        return None
    return Answer(code, body) if 400 <= code <= 599 else None


def shaped(answer: Answer, request_id: str) -> Answer:
    """The engine's answer, as it wrote it; an error that says nothing, or not where clients look, is put into words."""
    if answer.status < 400:
        return answer
    try:
        told = _TOLD.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = _Told()
    if told.error is not None and told.error.message:
        return answer
    words = told.detail if isinstance(told.detail, str) and told.detail else _SILENT
    code = "invalid_input" if answer.status < 500 else "model_error"
    return openai_error(ErrorAnswer(answer.status, code, words), request_id)


def error_event(error: ErrorAnswer, request_id: str) -> bytes:
    """The last event of a stream that broke. No [DONE] follows: the answer is not complete."""
    return b"data: " + orjson.dumps({"error": _error_object(error, request_id)}) + EVENT_END


def _error_object(error: ErrorAnswer, request_id: str) -> dict[str, object]:
    kind = _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "server_error")
    facts = {"message": error.message, "type": kind, "param": None, "code": error.code}
    return {**facts, "retryable": error.retryable, "request_id": request_id}
