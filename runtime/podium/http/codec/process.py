"""The front end's side of the codec process: started when it is first needed, replaced when it ends."""

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import msgspec

from podium.errors import ArenaExhausted, InvalidInput, Overloaded, PodiumError
from podium.http.codec.wire import (
    CODEC_FD,
    ENCODER,
    LENGTH,
    MAX_HEAD_BYTES,
    MAX_REPLY_BYTES,
    REPLIES,
    Job,
    Read,
    ReadJob,
    Refused,
    Reply,
    TensorHead,
    WriteJob,
    Written,
    framed,
)
from podium.http.forms.document import Served, Tensors
from podium.http.forms.table import READERS, Form
from podium.http.transport.asgi import Answer
from podium.http.transport.errors import (
    BodyTooLargeError,
    CodecFailedError,
    NotAcceptableError,
    UnsupportedMediaTypeError,
)
from podium.ipc.arena import Arena
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import Tensor, check_layout, element_ends
from podium.serving.revisions.contract import Contract, Specs
from podium.serving.workers.process import ChildProcess, spawn, thread_environment
from podium.telemetry.logging import get_logger
from podium_crds.tensors import DType

log = get_logger(__name__)

MAX_WAITING = 64
"""Jobs that may wait for the one that runs; the next is refused."""
JOB_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
SCRATCH_BYTES = 64 << 10
REFUSALS: Mapping[str, type[PodiumError]] = {
    "InvalidInput": InvalidInput,
    "NotAcceptableError": NotAcceptableError,
    "BodyTooLargeError": BodyTooLargeError,
    "UnsupportedMediaTypeError": UnsupportedMediaTypeError,
}


class CodecProcess:
    """Runs one job at a time in a process of its own, so that no body holds the event loop. Used from one loop."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._child: ChildProcess | None = None
        self._socket: socket.socket | None = None
        self._running: set[asyncio.Task[Any]] = set()

    async def read(self, form: Form, contract: Contract, body: Sequence[bytes]) -> tuple[Tensors, Any]:
        """As the form's reader, the tensors in the arena and owned by the caller. Raises what the reader raises,
        ArenaExhausted, Overloaded, CodecFailedError."""
        job = ReadJob(form, _wire(contract.inputs), _wire(contract.outputs), sum(len(piece) for piece in body))
        reply, tensors = await self._run(job, body)
        if not isinstance(reply, Read):
            raise CodecFailedError("the codec process gave an answer where tensors were asked for")
        return tensors, msgspec.msgpack.decode(reply.request, type=READERS[form].request)

    async def write(self, form: Form, served: Served, request: object, outputs: Mapping[str, Tensor]) -> Answer:
        """As the form's writer. Borrows the outputs until it returns, also where the caller is cancelled. Raises what
        the writer raises, Overloaded, CodecFailedError."""
        kept = {name: tensor.retain() for name, tensor in outputs.items()}
        heads = tuple(TensorHead(name, t.dtype.value, t.shape, t.nbytes) for name, t in kept.items())
        job = WriteJob(form, served, ENCODER.encode(request), heads)
        reply, body = await self._run(job, [tensor.data for tensor in kept.values()], kept)
        if not isinstance(reply, Written):
            raise CodecFailedError("the codec process gave tensors where an answer was asked for")
        return Answer(reply.status, body, reply.content_type, reply.headers)

    async def close(self) -> None:
        """Ends the process; jobs under way fail."""
        if self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)
        await self._end()

    async def _run(self, job: Job, payload: Sequence[bytes | memoryview], kept: Tensors | None = None) -> Any:
        """Runs a job to its end even where the caller is cancelled: half a job would spoil the next one."""
        if self._waiting >= MAX_WAITING:
            _release(kept or {})
            raise Overloaded(f"{MAX_WAITING} large bodies are being read or written already", 1.0)
        self._waiting += 1
        task = asyncio.create_task(self._in_turn(job, payload, kept or {}), name="codec job")
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_drop)
            raise

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._waiting -= 1
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # it is the caller's, who may have left

    async def _in_turn(self, job: Job, payload: Sequence[bytes | memoryview], kept: Tensors) -> tuple[Reply, Any]:
        try:
            async with self._turn:
                return await self._exchange(job, payload)
        finally:
            _release(kept)

    async def _exchange(self, job: Job, payload: Sequence[bytes | memoryview]) -> tuple[Reply, Any]:
        is_whole = False
        try:
            async with asyncio.timeout(JOB_TIMEOUT_S):
                connection = self._connected()
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(connection, framed(job))
                for piece in payload:
                    await loop.sock_sendall(connection, piece)
                reply = await self._head(connection)
                result = await self._rest(connection, reply)
                is_whole = True
        except (TimeoutError, OSError, EOFError, msgspec.MsgspecError) as error:
            log.warning("codec_process_failed", form=job.form.value, reason=str(error) or type(error).__name__)
            raise CodecFailedError("the process that reads large bodies failed over one; send a smaller one") from error
        finally:
            if not is_whole:
                await self._end()
        return reply, _outcome(result)

    def _connected(self) -> socket.socket:
        """The process's socket, to a new process where there is none that lives. Raises OSError."""
        if self._socket is not None and self._child is not None and self._child.alive:
            return self._socket
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            child = spawn(("-m", "podium.http.codec.main"), {CODEC_FD: theirs.fileno()}, thread_environment(1))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        if self._socket is not None:
            self._socket.close()
        self._child, self._socket = child, ours
        log.info("codec_process_started", pid=child.pid)
        return ours

    async def _end(self) -> None:
        child, connection = self._child, self._socket
        self._child = self._socket = None
        if connection is not None:
            connection.close()
        if child is not None:
            child.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(child.exited), STOP_TIMEOUT_S)

    async def _head(self, connection: socket.socket) -> Reply:
        size = LENGTH.unpack(await _received(connection, LENGTH.size))[0]
        if size > MAX_HEAD_BYTES:
            raise OSError(f"a head of {size} bytes")
        reply: Reply = REPLIES.decode(await _received(connection, size))
        return reply

    async def _rest(self, connection: socket.socket, reply: Reply) -> "Tensors | bytes | PodiumError":
        """What follows the head, all of it, so that the next job finds the socket empty."""
        if isinstance(reply, Refused):
            known = REFUSALS.get(reply.error, InvalidInput if reply.error else CodecFailedError)
            return known(reply.message)
        if isinstance(reply, Written):
            if reply.nbytes > MAX_REPLY_BYTES:
                raise OSError(f"an answer of {reply.nbytes} bytes")
            return await _received(connection, reply.nbytes)
        return await self._tensors(connection, reply.tensors)

    async def _tensors(self, connection: socket.socket, heads: Sequence[TensorHead]) -> "Tensors | PodiumError":
        tensors: Tensors = {}
        problem: PodiumError | None = None
        try:
            for head in heads:
                tensor = self._placed(head) if problem is None else None
                if isinstance(tensor, Tensor):
                    tensors[head.name] = tensor
                    await _fill(connection, tensor.data)
                    tensors[head.name] = self._checked(tensor)
                else:
                    problem = problem or tensor
                    await _discard(connection, head.nbytes)
        except BaseException:
            _release(tensors)
            raise
        if problem is not None:
            _release(tensors)
            return problem
        return tensors

    def _placed(self, head: TensorHead) -> "Tensor | PodiumError":
        try:
            dtype = DType(head.dtype)
            check_layout(dtype, head.shape, head.nbytes)
            if head.nbytes <= INLINE_BYTES:  # it will travel in the message
                return Tensor(dtype, head.shape, memoryview(bytearray(head.nbytes)))
            return self._arena.tensor(dtype, head.shape, head.nbytes)
        except (ArenaExhausted, InvalidInput) as error:
            return error
        except ValueError as error:
            raise OSError(f"a tensor of {head.dtype!r}") from error

    def _checked(self, tensor: Tensor) -> Tensor:
        sealed = self._arena.seal(tensor)
        if sealed.dtype is DType.BYTES:
            element_ends(sealed.data, prod(sealed.shape))
        return sealed


def _outcome(result: "Tensors | bytes | PodiumError") -> "Tensors | bytes":
    if isinstance(result, PodiumError):
        raise result
    return result


async def _received(connection: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    await _fill(connection, memoryview(buffer))
    return bytes(buffer)


async def _fill(connection: socket.socket, target: memoryview) -> None:
    """Fills all of it. Raises EOFError where the process has ended."""
    loop, position = asyncio.get_running_loop(), 0
    while position < target.nbytes:
        count = await loop.sock_recv_into(connection, target[position:])
        if not count:
            raise EOFError("the process ended")
        position += count


async def _discard(connection: socket.socket, size: int) -> None:
    scratch = memoryview(bytearray(min(size, SCRATCH_BYTES)))
    while size:
        await _fill(connection, scratch[: min(size, SCRATCH_BYTES)])
        size -= min(size, SCRATCH_BYTES)


def _wire(specs: Specs) -> dict[str, dict[str, Any] | None]:
    return {name: spec.wire() if spec is not None else None for name, spec in specs.items()}


def _release(tensors: Mapping[str, Tensor]) -> None:
    for tensor in tensors.values():
        tensor.release()


def _drop(task: "asyncio.Task[Any]") -> None:
    """Gives up the tensors of a job whose caller has left."""
    if not task.cancelled() and task.exception() is None and isinstance(task.result()[1], dict):
        _release(task.result()[1])
