"""The thin layer over ASGI that the hot routes use: headers in, one answer out."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import orjson

from podium.http.errors import ErrorAnswer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
BINARY = b"application/octet-stream"
DUMP_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def json_answer(value: object, status: int = 200) -> Answer:
    """A JSON response; numpy arrays are written from their memory."""
    return Answer(status, orjson.dumps(value, option=DUMP_OPTIONS))


def error_answer(error: ErrorAnswer, request_id: str, *, plain: bool) -> Answer:
    """The one error body; `plain` is the form that the Open Inference Protocol asks for."""
    body: Mapping[str, object]
    if plain:
        body = {"error": error.message}
    else:
        body = {"error": {"code": error.code, "message": error.message, "request_id": request_id}}
    headers: Headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()))
    if error.status == 405:
        headers.append((b"allow", b"POST"))
    return Answer(error.status, orjson.dumps(body), JSON, tuple(headers))


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header, by lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def respond(send: Send, answer: Answer, extra: Headers) -> None:
    """Sends a response. The transport owns a copy of the bytes when this returns."""
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.body)).encode()),
        *answer.headers,
        *extra,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
