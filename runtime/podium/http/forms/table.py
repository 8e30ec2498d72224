"""Which function reads or writes which form. One table for the front end and for the codec process."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from podium.http.forms.document import Served, Tensors
from podium.http.forms.files import NPY, npy_answer, parse_npy, parse_raw, parse_text
from podium.http.forms.generate import parse_generate
from podium.http.forms.image import parse_image
from podium.http.forms.infer import InferRequest, infer_answer, parse_infer
from podium.http.forms.named import parse_predict, predict_answer
from podium.http.forms.packed import MSGPACK, msgpack_answer, parse_msgpack
from podium.http.forms.single import SingleRequest, batch_answer, parse_batch, parse_single, single_answer
from podium.http.forms.wishes import NamedRequest
from podium.http.transport.asgi import JSON, Answer
from podium.http.transport.errors import NotAcceptableError, UnsupportedMediaTypeError
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract


class Form(StrEnum):
    """How a body reads, or an answer is written."""

    NAMED = "named"
    MSGPACK = "msgpack"
    NPY = "npy"
    RAW = "raw"
    TEXT = "text"
    IMAGE = "image"
    INFER = "infer"
    BATCH = "batch"
    SINGLE = "single"
    GENERATE = "generate"


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads bodies of one form."""

    parse: Callable[[bytes, Contract], tuple[Tensors, Any]]
    request: type[Any]
    is_isolated: bool = False
    """True: in the codec process whatever the size."""


READERS: Mapping[Form, Reader] = {
    Form.NAMED: Reader(parse_predict, NamedRequest),
    Form.MSGPACK: Reader(parse_msgpack, NamedRequest),
    Form.NPY: Reader(parse_npy, NamedRequest),
    Form.RAW: Reader(parse_raw, NamedRequest),
    Form.TEXT: Reader(parse_text, NamedRequest),
    Form.IMAGE: Reader(parse_image, NamedRequest, is_isolated=True),
    Form.INFER: Reader(parse_infer, InferRequest),
    Form.BATCH: Reader(parse_batch, SingleRequest),
    Form.SINGLE: Reader(parse_single, SingleRequest),
    Form.GENERATE: Reader(parse_generate, NamedRequest),
}
WRITERS: Mapping[Form, Callable[[Served, Any, Mapping[str, Tensor]], Answer]] = {
    Form.NAMED: predict_answer,
    Form.MSGPACK: msgpack_answer,
    Form.NPY: npy_answer,
    Form.INFER: infer_answer,
    Form.BATCH: batch_answer,
    Form.SINGLE: single_answer,
}
BODY_FORMS: Mapping[bytes, Form] = {
    b"": Form.NAMED,
    JSON: Form.NAMED,
    b"application/x-www-form-urlencoded": Form.NAMED,  # what curl -d says where nothing is said of the type
    MSGPACK: Form.MSGPACK,
    b"application/x-msgpack": Form.MSGPACK,
    NPY: Form.NPY,
    b"application/octet-stream": Form.RAW,
    b"text/plain": Form.TEXT,
    b"image/png": Form.IMAGE,
    b"image/jpeg": Form.IMAGE,
    b"image/webp": Form.IMAGE,
}
ANSWER_FORMS: Mapping[bytes, Form] = {
    JSON: Form.NAMED,
    b"application/*": Form.NAMED,
    b"*/*": Form.NAMED,
    MSGPACK: Form.MSGPACK,
    b"application/x-msgpack": Form.MSGPACK,
    NPY: Form.NPY,
}
MAX_ACCEPTED = 16


def body_form(content_type: bytes | None, own: Iterable[str] = ()) -> Form:
    """The form of a `:predict` body of that type. `own`: what the model's own codecs read, for the message.

    Raises UnsupportedMediaTypeError.
    """
    if content_type is None or content_type == JSON:
        return Form.NAMED
    found = BODY_FORMS.get(_media_type(content_type))
    if found is None:
        known = ", ".join(sorted({name.decode() for name in BODY_FORMS if name} | set(own)))
        raise UnsupportedMediaTypeError(f"content-type {content_type[:80]!r} is not read here; expected one of {known}")
    return found


def answer_form(accept: bytes | None, body: Form, own: Iterable[str] = ()) -> Form:
    """The form of the answer: the first of the accepted ones that can be written, or the body's where all are.

    `own`: what the model's own codecs write, for the message. Raises NotAcceptableError.
    """
    if accept is None or accept == b"*/*":
        return body if body is Form.MSGPACK else Form.NAMED
    for part in accept.split(b",")[:MAX_ACCEPTED]:
        if found := ANSWER_FORMS.get(_media_type(part)):
            return found
    known = ", ".join(sorted({name.decode() for name in ANSWER_FORMS} | set(own)))
    raise NotAcceptableError(f"accept {accept[:80]!r} cannot be answered; expected one of {known}")


def _media_type(value: bytes) -> bytes:
    return value.partition(b";")[0].strip().lower()
