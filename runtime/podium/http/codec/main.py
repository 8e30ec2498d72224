"""The codec process: reads and writes bodies too large, or too risky, for the front end's own process.

One job at a time, in the order they come; it ends when the front end's side of the socket closes. It holds no model.
"""

import os
import resource
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from podium.errors import RequestError, clipped
from podium.http.codec.wire import (
    CODEC_FD,
    ENCODER,
    JOBS,
    LENGTH,
    Job,
    Read,
    ReadJob,
    Refused,
    TensorHead,
    WriteJob,
    Written,
    framed,
)
from podium.http.forms.contents import decode_here
from podium.http.forms.table import READERS, WRITERS
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract
from podium_crds.tensors import DType, TensorSpec

NICENESS = 10
"""Large bodies give way to small ones."""
MAX_MEMORY_BYTES = 4 << 30
MAX_OPEN_FILES = 64

Pieces = Sequence[bytes | memoryview]


def main() -> None:
    """Serves jobs until the socket closes."""
    decode_here()
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    with socket.socket(fileno=CODEC_FD) as connection:
        connection.setblocking(True)
        while head := _received(connection, LENGTH.size):
            job = JOBS.decode(_received(connection, LENGTH.unpack(head)[0]))
            sizes = [job.nbytes] if isinstance(job, ReadJob) else [tensor.nbytes for tensor in job.tensors]
            for piece in answer(job, [_received(connection, size) for size in sizes]):
                connection.sendall(piece)


def answer(job: Job, payload: Sequence[bytearray]) -> Pieces:
    """Head and bytes of the reply to one job."""
    try:
        return _read(job, payload[0]) if isinstance(job, ReadJob) else _write(job, payload)
    except RequestError as error:
        return [framed(Refused(type(error).__name__, clipped(str(error))))]
    except (MemoryError, ArithmeticError, ValueError, TypeError, LookupError, RecursionError) as error:
        return [framed(Refused("", type(error).__name__))]


def _read(job: ReadJob, raw: bytearray) -> Pieces:
    reader = READERS[job.form]
    tensors, request = reader.parse(bytes(raw), Contract(_specs(job.inputs), _specs(job.outputs)))
    heads = tuple(TensorHead(name, t.dtype.value, t.shape, t.nbytes) for name, t in tensors.items())
    return [framed(Read(ENCODER.encode(request), heads)), *(tensor.data for tensor in tensors.values())]


def _write(job: WriteJob, payload: Sequence[bytearray]) -> Pieces:
    outputs = {
        head.name: Tensor(DType(head.dtype), head.shape, memoryview(data))
        for head, data in zip(job.tensors, payload, strict=True)
    }
    request = msgspec.msgpack.decode(job.request, type=READERS[job.form].request)
    made = WRITERS[job.form](job.served, request, outputs)
    head = Written(made.status, made.content_type, made.headers, made.nbytes)
    return [framed(head), made.body, *(tensor.data for tensor in made.tensors)]


def _specs(wire: Mapping[str, dict[str, Any] | None]) -> dict[str, TensorSpec | None]:
    return {name: TensorSpec.model_validate(spec) if spec is not None else None for name, spec in wire.items()}


def _received(connection: socket.socket, size: int) -> bytearray:
    """Exactly that many bytes; empty where the other side has closed."""
    buffer = bytearray(size)
    view, position = memoryview(buffer), 0
    while position < size:
        count = connection.recv_into(view[position:])
        if not count:
            return bytearray()
        position += count
    return buffer


if __name__ == "__main__":
    main()
