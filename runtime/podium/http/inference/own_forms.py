"""Bodies in a model's own content types: which of them a request means, and their way through the model's codecs."""

from collections.abc import Mapping
from dataclasses import dataclass

from podium.errors import ContractBreach, InvalidInput
from podium.http.forms.document import Tensors
from podium.http.forms.table import ANSWER_FORMS, MAX_ACCEPTED
from podium.http.inference.oip import release
from podium.http.transport.asgi import Answer, Fields
from podium.http.transport.body import BodyReader
from podium.http.transport.errors import BodyTooLargeError
from podium.http.transport.growing import read_growing
from podium.http.transport.receiving import Receiving
from podium.ipc.arena import Arena
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.codec_group import CodecGroup
from podium.serving.revisions.contract import Contract, described
from podium_crds.tensors import DType


@dataclass(frozen=True, slots=True)
class OwnForms:
    """What the model's own codecs do for one request."""

    codecs: CodecGroup
    reads: bytes | None
    """The request's content type, where they read it."""
    writes: bytes | None
    """The content type of the answer, where they write it."""


def own_forms(fields: Fields, codecs: CodecGroup) -> OwnForms | None:
    """What of a request is for the model's own codecs, which go before Podium's own. None: nothing."""
    content_type = fields.get(b"content-type")
    reads = content_type if content_type is not None and _media_type(content_type) in codecs.decodes else None
    writes = _accepted(fields.get(b"accept"), codecs)
    return OwnForms(codecs, reads, writes) if reads is not None or writes is not None else None


def _accepted(accept: bytes | None, codecs: CodecGroup) -> bytes | None:
    """The first of the accepted types that can be written, where that is one of the model's own."""
    for part in (accept or b"").split(b",")[:MAX_ACCEPTED]:
        media_type = _media_type(part)
        if media_type in codecs.encodes:
            return media_type.encode()
        if media_type.encode("latin-1") in ANSWER_FORMS:
            return None
    return None


async def read_own(
    own: OwnForms, body: BodyReader, contract: Contract, receiving: Receiving, request_id: str, deadline: float
) -> Tensors:
    """The inputs in a body, checked and owned by the caller. Raises UnreadableBodyError, DecodedTooLargeError,
    InvalidInput, BodyTooLargeError, Overloaded, ModelError, WorkerDied, DeadlineExceeded."""
    assert own.reads is not None, "read by Podium's own codecs otherwise"
    raw = await _received(body, receiving)
    try:
        tensors = await own.codecs.decode(own.reads, raw, request_id, deadline)
    finally:
        raw.release()
    try:
        _check(tensors, contract, _media_type(own.reads))
    except BaseException:
        release(tensors)
        raise
    return tensors


async def write_own(own: OwnForms, outputs: Mapping[str, Tensor], request_id: str, deadline: float) -> Answer:
    """The answer. Borrows the outputs. Raises ModelError, Overloaded, WorkerDied, DeadlineExceeded."""
    assert own.writes is not None, "written by Podium's own codecs otherwise"
    return Answer(200, await own.codecs.encode(own.writes, outputs, request_id, deadline), own.writes)


async def _received(body: BodyReader, receiving: Receiving) -> Tensor:
    """The whole body, as it is."""
    if body.length is None:
        return await read_growing(body, receiving)
    if body.length > receiving.limit_bytes:
        raise BodyTooLargeError(f"body of {body.length} bytes; this pod's shared memory takes {receiving.limit_bytes}")
    with receiving.room(body.length):
        return await _filled(body, body.length, receiving.arena)


async def _filled(body: BodyReader, length: int, arena: Arena) -> Tensor:
    if length <= INLINE_BYTES:
        tensor = Tensor(DType.UINT8, (length,), memoryview(bytearray(length)))
    else:
        tensor = arena.tensor(DType.UINT8, (length,))
    try:
        await body.read_into([tensor.data])
        return arena.seal(tensor)
    except BaseException:
        tensor.release()
        raise


def _check(tensors: Tensors, contract: Contract, media_type: str) -> None:
    """Names and types are the codec's own doing, shapes the body's. Raises ContractBreach, InvalidInput."""
    declared = contract.inputs
    try:
        contract.check_names(tensors)
    except InvalidInput as error:
        raise ContractBreach(f"the model's codec of {media_type} returned: {error}") from error
    for name, tensor in tensors.items():
        spec = declared.get(name)
        if spec is not None and spec.dtype is not tensor.dtype:
            raise ContractBreach(
                f"the model's codec of {media_type} returned {name!r} as {tensor.dtype}; expected {described(spec)}"
            )
    try:
        contract.check(tensors)
    except InvalidInput as error:
        raise InvalidInput(f"as {media_type} the body reads as inputs that the model cannot take: {error}") from error


def _media_type(value: bytes) -> str:
    return value.partition(b";")[0].strip().lower().decode("latin-1")
