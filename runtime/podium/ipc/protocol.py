"""Messages between the front end and a worker: msgpack, tagged, strict. The first field is the worker's epoch.

| direction | message | meaning |
|---|---|---|
| worker → front end | Hello | I am connected; here is my token |
| | Ready, LoadFailed | the model is loaded, or why not |
| | Reply, Failure | outputs of a batch, or what the model raised |
| | Need | the granted slot is too small; answered by Grant |
| | Stats | what a language model's engine has measured, now and then |
| | Chunks | what one step of the engine gave each of its streams, and which streams ended |
| front end → worker | Dispatch | a batch, with the slot for its outputs |
| | Grant | a larger slot, or none: send inline |
| | Cancel | these batches are wanted by nobody any more |
| | OpenStream | a request that is answered in chunks |
| | StreamCredit | so many bytes of a stream were read: the generator may go on |
| | CloseStream | nobody reads this stream any more; answered by its end in a Chunks |
| | Threads | run with so many intra-op threads from now on |
| | Drain | answer what is in your hands; nothing more will come |
| | Stop | unload and exit |

That a batch was begun is no message: see podium.ipc.journal. Every OpenStream is answered by one StreamEnd, or by
the worker's death. A stream's unread bytes never exceed its window by more than one chunk: the worker counts what it
sent against what was credited, and takes no further step of a stream that is out of credit.
"""

from typing import Annotated, Literal, TypeVar

import msgspec

from podium.errors import MAX_MESSAGE_CHARS, ProtocolError
from podium.ipc.descriptor import MAX_TENSORS, Count, Name, Refs, Shape, SlotRange
from podium.ipc.llm_stats import LlmStats
from podium_crds.tensors import DType

T = TypeVar("T")
PROTOCOL_VERSION = 1
MAX_HEADER_BYTES = 2 << 20
MAX_CHUNK_BYTES = 1 << 20
"""Largest chunk of a stream: chunks travel in the header, each as bytes of its own, so that no row keeps another's."""
STREAM_WINDOW_BYTES = 256 << 10
"""Bytes of one stream that may be unread before its generator pauses."""
MAX_STREAMS = 4096
"""Streams in one worker's hands."""
INLINE_BYTES = 16 << 10
"""Tensors of a batch, or of a body, up to this size in all travel in the message, and spare the arena a slot.

Measured on two cores, round trips in alternation: no difference up to 32 KiB, 1.2 times as long as a slot at 64 KiB,
twice as long at 256 KiB. `make bench NAME=inline` measures it again.
"""
MAX_INLINE_BYTES = 64 << 20
"""Largest payload outside the arena: what goes inline where the arena has no room."""

Epoch = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE_CHARS)]
Rows = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, lt=2**31)], ...], msgspec.Meta(max_length=4096)]

Generations = Annotated[tuple[Count, ...], msgspec.Meta(max_length=4096)]


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages."""

    epoch: Epoch


class Hello(_Message, frozen=True, tag="hello"):
    """First message of a worker; anything before it is dropped."""

    token: Annotated[bytes, msgspec.Meta(max_length=64)]
    pid: int
    protocol: int = PROTOCOL_VERSION


MediaTypes = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=127)], ...], msgspec.Meta(max_length=64)]


class OwnForms(msgspec.Struct, frozen=True, array_like=True):
    """Content types of bodies that the model's own codecs read and write."""

    decodes: MediaTypes = ()
    encodes: MediaTypes = ()

    def __bool__(self) -> bool:
        return bool(self.decodes or self.encodes)


class Ready(_Message, frozen=True, tag="ready"):
    """The model is loaded and takes batches."""

    load_s: float
    infers: bool = True
    """It answers batches."""
    streams: bool = False
    """It answers streams."""
    forms: OwnForms = OwnForms()


class LoadFailed(_Message, frozen=True, tag="load_failed"):
    """The model did not load; the worker exits next."""

    message: Text
    breach: bool = False
    """What was loaded is not what the resource declares."""


class Need(_Message, frozen=True, tag="need"):
    """The outputs of the batch take `nbytes` bytes and do not fit the grant."""

    batch: Count
    nbytes: Count


class ItemError(msgspec.Struct, frozen=True, array_like=True):
    """Why one request of a batch failed by itself; `index` counts the requests of the dispatch."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=4096)]
    message: Text
    refused: bool = False
    """The request is wrong; else the model failed."""


class Reply(_Message, frozen=True, tag="reply"):
    """Outputs of a batch, without rows of requests in `errors`. `run_s`: seconds in the model."""

    batch: Count
    outputs: Refs
    run_s: float
    held: Generations = ()
    """Slots that the model still has views of; the others of this worker are given back."""
    errors: Annotated[tuple[ItemError, ...], msgspec.Meta(max_length=4096)] = ()
    stores: Count = 0
    """Outputs that were copied to where they are; those written in place were not."""
    stored_bytes: Count = 0


class Failure(_Message, frozen=True, tag="failure"):
    """The model raised, or returned what cannot be an answer; the worker goes on."""

    batch: Count
    message: Text
    breach: bool = False
    """The model returned something else than the resource declares: no other request would fare better."""
    held: Generations = ()
    """As in Reply."""
    out_of_memory: bool = False
    """A smaller batch may succeed."""
    no_room: bool = False
    """The arena had no room for the outputs: the same batch may succeed once others have ended."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a chunk, with its bytes."""

    name: Name
    dtype: DType
    shape: Shape
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNK_BYTES)]


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """What one step gave one stream."""

    stream: Count
    pieces: Annotated[tuple[Piece, ...], msgspec.Meta(max_length=MAX_TENSORS)]

    @property
    def nbytes(self) -> int:
        """What it counts against the stream's window: its data and a little for every piece, so that none is free."""
        return sum(len(piece.data) + PIECE_OVERHEAD_BYTES for piece in self.pieces) + PIECE_OVERHEAD_BYTES


PIECE_OVERHEAD_BYTES = 64

StreamFault = Literal["", "model", "contract", "input", "slow"]
"""How a stream ended: in good order (or closed by the front end); the model raised; it returned what the resource does
not declare; it refused the request as wrong; its reader was too slow for an engine that cannot pause."""


class StreamEnd(msgspec.Struct, frozen=True, array_like=True):
    """The last word about a stream. `chunks`: how many were sent in all; `run_s`: seconds in the model."""

    stream: Count
    chunks: Count
    run_s: float
    fault: StreamFault = ""
    message: Text = ""


class Chunks(_Message, frozen=True, tag="chunks"):
    """Chunks of one step of the engine, then the streams that it ended, whose chunks all came before."""

    chunks: Annotated[tuple[Chunk, ...], msgspec.Meta(max_length=MAX_STREAMS)] = ()
    ended: Annotated[tuple[StreamEnd, ...], msgspec.Meta(max_length=MAX_STREAMS)] = ()


MAX_IN_HAND = 2
"""Batches in a worker's hands: the one that runs, and the one that follows it without a pause."""


class Stats(_Message, frozen=True, tag="stats"):
    """The measures of this life of the worker so far."""

    llm: LlmStats


class Dispatch(_Message, frozen=True, tag="dispatch"):
    """One batch; a worker runs them in the order of dispatch.

    `rows`: of each request in it, in order; empty where the inputs have no common first dimension.
    """

    batch: Count
    rows: Rows
    inputs: Refs
    grant: SlotRange | None = None


class Grant(_Message, frozen=True, tag="grant"):
    """Answer to Need. None: the arena has no room, send the outputs inline."""

    batch: Count
    grant: SlotRange | None = None


class Cancel(_Message, frozen=True, tag="cancel"):
    """Nobody waits for this batch; skip it if it was not begun."""

    batch: Count


class OpenStream(_Message, frozen=True, tag="open_stream"):
    """A new stream. Its inputs are copied before the first answer about it; then their slots are given back."""

    stream: Count
    request_id: Annotated[str, msgspec.Meta(max_length=256)]
    inputs: Refs
    window: Annotated[int, msgspec.Meta(ge=1, le=64 << 20)] = STREAM_WINDOW_BYTES
    """Bytes that may be unread."""


class Credit(msgspec.Struct, frozen=True, array_like=True):
    """`nbytes` more of a stream were read."""

    stream: Count
    nbytes: Count


class StreamCredit(_Message, frozen=True, tag="credit"):
    """Credit of several streams at once. That of a stream which has ended means nothing."""

    credits: Annotated[tuple[Credit, ...], msgspec.Meta(max_length=MAX_STREAMS)]


class CloseStream(_Message, frozen=True, tag="close_stream"):
    """Its generator is closed. A stream that has ended meanwhile is no error."""

    stream: Count


class Threads(_Message, frozen=True, tag="threads"):
    """A candidate has become what serves: it may use the threads that its resource gives it."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)]


class Drain(_Message, frozen=True, tag="drain"):
    """No dispatch follows."""


class Stop(_Message, frozen=True, tag="stop"):
    """Unload the model and exit 0."""


FromWorker = Hello | Ready | LoadFailed | Need | Reply | Failure | Chunks | Stats
ToWorker = Dispatch | Grant | Cancel | OpenStream | StreamCredit | CloseStream | Threads | Drain | Stop

_ENCODER = msgspec.msgpack.Encoder()
_FROM_WORKER = msgspec.msgpack.Decoder(FromWorker)
_TO_WORKER = msgspec.msgpack.Decoder(ToWorker)


def encode(message: FromWorker | ToWorker) -> bytes:
    """The header frame of a message."""
    return _ENCODER.encode(message)


def decode_from_worker(header: bytes) -> FromWorker:
    """A message that a worker sent. Raises ProtocolError on anything else."""
    message: FromWorker = _decode(_FROM_WORKER, header)
    return message


def decode_to_worker(header: bytes) -> ToWorker:
    """A message that the front end sent. Raises ProtocolError on anything else."""
    message: ToWorker = _decode(_TO_WORKER, header)
    return message


def _decode(decoder: "msgspec.msgpack.Decoder[T]", header: bytes) -> T:
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a message header of {len(header)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    try:
        return decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a message that the protocol does not know: {error}") from error
