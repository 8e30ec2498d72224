"""The thin layer over ASGI that the hot routes use: headers in, one answer out."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import orjson

from podium.http.transport.errors import ErrorAnswer
from podium.ipc.tensor import Tensor

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Fields = Mapping[bytes, bytes]
"""Request headers by lower-case name."""

ABORT = "podium.abort"
"""ASGI extension: a call that ends the connection at once, whatever is unsent."""
BODY = "podium.body"
"""ASGI extension: a call that turns a request's `receive` into the `podium.http.transport.incoming.Incoming` that fills
given memory with the body; None where that cannot be: go on with `receive`."""
Piece = bytes | memoryview
Whole = Callable[[Send, int, "Headers", Sequence[Piece]], bool]
"""Writes a whole answer at once, in pieces that are not copied; False where that cannot be: go on with `send`."""
WHOLE = "podium.whole"
"""ASGI extension, a `Whole`."""
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
    tensors: tuple[Tensor, ...] = ()
    """Follow the body; borrowed, so that whoever sends the answer lends them first (podium.http.transport.lending)."""
    parts: tuple[Piece, ...] = ()
    """Follow the body."""

    @property
    def nbytes(self) -> int:
        """Length of the whole body."""
        if not (self.tensors or self.parts):
            return len(self.body)
        return len(self.body) + sum([tensor.nbytes for tensor in self.tensors]) + sum(map(len, self.parts))


def json_answer(value: object, status: int = 200) -> Answer:
    """A JSON response; numpy arrays are written from their memory."""
    return Answer(status, orjson.dumps(value, option=DUMP_OPTIONS))


def error_answer(error: ErrorAnswer, request_id: str, *, plain: bool) -> Answer:
    """The one error body; `plain` puts the message where the Open Inference Protocol wants it."""
    facts = {"code": error.code, "retryable": error.retryable, "request_id": request_id}
    body: Mapping[str, object]
    body = {"error": error.message, **facts} if plain else {"error": {**facts, "message": error.message}}
    headers = list(error.headers)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()))
    return Answer(error.status, orjson.dumps(body), JSON, tuple(headers))


def fields_of(scope: Scope) -> Fields:
    """The headers of a request. One given more than once has its values joined, as RFC 9110 has it: where only one
    value makes sense, the joined one is no valid value."""
    headers = scope["headers"]
    fields: dict[bytes, bytes] = dict(headers)
    if len(fields) != len(headers):
        fields = {}
        for name, value in headers:
            fields[name] = b", ".join((fields[name], value)) if name in fields else value
    return fields


async def respond(send: Send, answer: Answer, extra: Headers, whole: Whole | None = None) -> None:
    """Sends a response. The transport may refer to its parts after this returns."""
    assert not answer.tensors, "lent before"
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(answer.nbytes).encode()),
        *answer.headers,
        *extra,
    ]
    if answer.parts and whole is not None and whole(send, answer.status, headers, (answer.body, *answer.parts)):
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": bool(answer.parts)})
    for left, part in zip(reversed(range(len(answer.parts))), answer.parts, strict=True):
        await send({"type": "http.response.body", "body": part, "more_body": bool(left)})
