"""Inputs that are given as the content of files: base64, numpy files, pictures, raw elements, text.

A tensor of the request then holds files, one an element, and says of what type they are; each is read as a body of that
type would be, and several are joined along the batch. Pure.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from podium.errors import InvalidInput
from podium.http.forms.document import Tensors
from podium.http.forms.files import check_text, parse_npy, parse_raw, parse_text
from podium.http.forms.image import parse_image
from podium.http.forms.wishes import NamedRequest
from podium.http.transport.errors import BodyTooLargeError, UnsupportedMediaTypeError
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract
from podium.serving.revisions.named_tensors import MAX_BYTES_ELEMENTS, check_elements, text_tensor
from podium_crds.tensors import DType, TensorSpec

CONTENT_TYPE = "content_type"
"""Key of a tensor in JSON and msgpack, parameter of an input in the Open Inference Protocol."""
BASE64 = "base64"
"""Text that stands for bytes, as MLServer names it: the element itself is base64, however it is sent."""
TEXT = "text/plain"
AS_IT_IS = frozenset({"np", "str", "pd", "datetime", "raw"})
"""MLServer's names for what its models make of a tensor. Ours take it as it is."""
PICTURES = frozenset({"image/png", "image/jpeg", "image/webp"})
Parse = Callable[[bytes, Contract], tuple[Tensors, NamedRequest]]
READERS: Mapping[str, Parse] = {
    BASE64: parse_raw,
    "application/octet-stream": parse_raw,
    "application/x-npy": parse_npy,
    TEXT: parse_text,
    **dict.fromkeys(sorted(PICTURES), parse_image),
}
MAX_FILES = 1024
"""Of one input that are read: each costs time."""
MAX_CONTENT_BYTES = 64 << 20
"""What the files of one request may become."""


class IsolatedContentError(Exception):
    """Content that is read in the codec process alone: whoever parses elsewhere has the body parsed there."""


@dataclass(slots=True)
class Reading:
    """The files of one request."""

    may_decode_pictures: bool
    """True in the codec process."""
    left_bytes: int = MAX_CONTENT_BYTES

    def spend(self, nbytes: int) -> None:
        """Raises BodyTooLargeError where the files became too much."""
        self.left_bytes -= nbytes
        if self.left_bytes < 0:
            raise BodyTooLargeError(
                f"the files of the request become more than {MAX_CONTENT_BYTES} bytes of tensors; send fewer at a time"
            )


@dataclass(slots=True)
class _Process:
    """What this process is."""

    is_codec_process: bool = field(default=False)


_PROCESS = _Process()


def decode_here() -> None:
    """Says that this is the codec process, which reads everything."""
    _PROCESS.is_codec_process = True


@dataclass(frozen=True, slots=True)
class Content:
    """The files of one input."""

    type: str
    elements: Sequence[str | bytes]
    """Text is base64 of a file, or the text itself where text is asked for."""
    shape: tuple[int, ...] | None = None
    """Of the elements as they were sent; None: in a row."""


def content_type_of(value: object, where: str) -> str | None:
    """The type that files are read by; None for a tensor as it is. Raises InvalidInput, UnsupportedMediaTypeError."""
    if value is None or value in AS_IT_IS:
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: {CONTENT_TYPE} must be text, such as 'image/png'")
    found = value.partition(";")[0].strip().lower()
    if found not in READERS:
        known = ", ".join(sorted((*READERS, *AS_IT_IS)))
        raise UnsupportedMediaTypeError(
            f"{where}: {CONTENT_TYPE} {value[:80]!r} is not read here; expected one of {known}"
        )
    return found


def content_tensors(files: Mapping[str, Content], contract: Contract) -> Tensors:
    """The inputs that the files of a request stand for, on the heap, not yet checked against the contract. Raises
    InvalidInput, BodyTooLargeError, IsolatedContentError."""
    all_files = Reading(_PROCESS.is_codec_process)
    return {name: content_tensor(name, content, contract, all_files) for name, content in files.items()}


def content_tensor(name: str, content: Content, contract: Contract, all_files: Reading) -> Tensor:
    """One of them. Raises as `content_tensors`."""
    spec = contract.inputs.get(name)
    try:
        if spec is None and content.type != BASE64:
            raise InvalidInput(f"the model does not declare its shape, which {content.type} needs; send the tensor")
        if spec is None or spec.dtype is DType.BYTES:
            return _as_bytes(content, spec)
        return _read(content, spec, all_files)
    except InvalidInput as error:
        raise InvalidInput(f"input {name!r}: {error}") from error


def _as_bytes(content: Content, spec: TensorSpec | None) -> Tensor:
    """The files themselves: that is what the model takes."""
    shape = content.shape or (len(content.elements), *(1 for _ in (spec.shape[1:] if spec is not None else ())))
    check_elements(shape)
    files = _files(content, MAX_BYTES_ELEMENTS)
    if content.type == TEXT:
        for file in files:
            check_text(file)
    return text_tensor(files, shape)


def _read(content: Content, spec: TensorSpec, all_files: Reading) -> Tensor:
    if content.type in PICTURES and not all_files.may_decode_pictures:
        raise IsolatedContentError
    contract, parts = Contract({spec.name: spec}, {}), []
    for file in _files(content, MAX_FILES):
        (part,) = READERS[content.type](file, contract)[0].values()
        all_files.spend(part.nbytes)
        parts.append(part.array())
    if not parts:
        raise InvalidInput("no file is there; expected at least one")
    if len({(part.dtype, part.shape[1:]) for part in parts}) > 1:
        shapes = ", ".join(str(list(part.shape)) for part in parts[:4])
        raise InvalidInput(f"the files become tensors of different shapes ({shapes}); send them one by one")
    return Tensor.from_array(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _files(content: Content, most: int) -> list[bytes]:
    if len(content.elements) > most:
        raise InvalidInput(f"{len(content.elements)} files; expected at most {most}")
    return [_file(element, content.type) for element in content.elements]


def _file(element: str | bytes, content_type: str) -> bytes:
    if content_type == TEXT or (isinstance(element, bytes) and content_type != BASE64):
        return element.encode() if isinstance(element, str) else element
    try:
        return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("an element is not base64 (RFC 4648)") from error
