"""The streams in a worker's hands: opened, stepped while they have credit, closed; their chunks gathered into messages.

Sync iterators are advanced by `step`, each in turn; async ones by a task each. What they give waits in an outbox until
`flush`, so that all rows of one step of the engine leave in one message.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from math import inf

from podium.engines.base import Arrays, AsyncEngine, StreamingEngine, StreamRequest, user_error, wrapped
from podium.errors import ContractBreach, InvalidInput, PodiumError, ProtocolError, clipped
from podium.ipc.channel import Payloads
from podium.ipc.protocol import (
    MAX_STREAMS,
    Chunk,
    Chunks,
    OpenStream,
    StreamCredit,
    StreamEnd,
    StreamFault,
)
from podium.ipc.tensor import Tensor
from podium.ipc.view import ArenaView
from podium.worker.chunks import Declared, as_chunk
from podium.worker.link import Link
from podium.worker.orphans import collect_orphans

FLUSH_BYTES = 256 << 10
"""A message of chunks leaves once it has so many bytes; with one largest chunk on top it still fits a header."""


class _TooSlow(Exception):  # noqa: N818
    """A stream had no credit for longer than its engine waits."""


@dataclass(slots=True, eq=False)
class _Stream:
    """One answer under way."""

    number: int
    window: int
    items: Iterator[Arrays] | AsyncIterator[Arrays]
    unread: int = 0
    chunks: int = 0
    run_s: float = 0.0
    last_s: float = inf
    """How long its last step took, if it is a sync one."""
    credited: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there is credit. Only what a task drives waits for it."""
    task: asyncio.Task[None] | None = None
    closed: bool = False
    """Nobody reads it any more."""
    fault: StreamFault = ""
    words: str = ""

    @property
    def has_credit(self) -> bool:
        """Whether it may be advanced."""
        return self.unread < self.window


class Streams:
    """All open streams of one engine. Used on one event loop's thread."""

    def __init__(
        self,
        link: Link,
        view: ArenaView,
        engine: StreamingEngine | AsyncEngine,
        declared: Declared,
        wake: Callable[[], None],
    ) -> None:
        """`wake` asks for a `flush`, and for a `step` where `runnable`, soon."""
        self._link = link
        self._view = view
        self._engine = engine
        self._declared = declared
        self._wake = wake
        self._slow_after_s = engine.slow_reader_timeout_s if isinstance(engine, AsyncEngine) else None
        self._open: dict[int, _Stream] = {}
        self._runnable: deque[_Stream] = deque()
        """Sync streams with credit, the one that waited longest first."""
        self._chunks: list[Chunk] = []
        self._ended: list[StreamEnd] = []
        self._outbox_bytes = 0

    @property
    def runnable(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._runnable)

    def open(self, message: OpenStream, payloads: Payloads) -> None:
        """Begins a stream. Raises ProtocolError where that number is open already."""
        if message.stream in self._open or len(self._open) >= MAX_STREAMS:
            raise ProtocolError(f"stream {message.stream} cannot be opened: it, or {MAX_STREAMS} others, are open")
        try:
            inputs = {name: _copied(self._view.input(ref, payloads)) for name, ref in message.inputs.items()}
            items = self._engine.stream(StreamRequest(message.request_id, inputs))
        except Exception as error:  # noqa: BLE001 - the model's own code
            refused = _Stream(message.stream, message.window, iter(()))
            refused.fault, refused.words = _fault(error)
            self._end(refused)
            return
        stream = self._open[message.stream] = _Stream(message.stream, message.window, items)
        if isinstance(items, AsyncIterator):
            stream.task = asyncio.get_running_loop().create_task(self._drive(stream, items))
            # Not at the end of the task's own code: one that is cancelled before its first step never gets there.
            stream.task.add_done_callback(lambda _: self._end(stream))
        else:
            self._runnable.append(stream)
        self._wake()

    def credit(self, message: StreamCredit) -> None:
        """Bytes were read: streams that paused for them go on."""
        for credit in message.credits:
            stream = self._open.get(credit.stream)
            if stream is None:
                continue
            paused = not stream.has_credit
            stream.unread = max(0, stream.unread - credit.nbytes)
            if paused and stream.has_credit:
                stream.credited.set()
                if stream.task is None:
                    self._runnable.append(stream)
                    self._wake()

    def close(self, number: int) -> None:
        """Nobody reads that stream any more."""
        stream = self._open.get(number)
        if stream is None or stream.closed:
            return
        stream.closed = True
        if stream.task is not None:
            stream.task.cancel()
            return
        if stream in self._runnable:
            self._runnable.remove(stream)
        _close(stream.items)
        self._end(stream)

    async def close_all(self) -> None:
        """Closes every stream and waits until the last has run its own clean-up."""
        tasks = [stream.task for stream in self._open.values() if stream.task is not None]
        for number in tuple(self._open):
            self.close(number)
        if tasks:
            await asyncio.wait(tasks)

    def step(self, budget_s: float) -> None:
        """Advances sync streams, each in turn, until `budget_s` is over or none is runnable. At least one step.

        What is in the outbox never waits for a step that was slow last time, or is the stream's first.
        """
        until = time.perf_counter() + budget_s
        while self._runnable:
            if self._chunks and self._runnable[0].last_s >= budget_s:
                return
            stream = self._runnable.popleft()
            self._advance(stream)
            if time.perf_counter() >= until:
                break

    def flush(self) -> None:
        """Sends what waits in the outbox, if anything."""
        if not (self._chunks or self._ended):
            return
        message = Chunks(self._link.epoch, tuple(self._chunks), tuple(self._ended))
        self._chunks, self._ended, self._outbox_bytes = [], [], 0
        self._link.send(message)
        if message.ended:
            collect_orphans()

    def _advance(self, stream: _Stream) -> None:
        assert not isinstance(stream.items, AsyncIterator)
        started = time.perf_counter()
        chunk: Chunk | None = None
        try:
            chunk = as_chunk(stream.number, next(stream.items), self._declared)
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 - the model's own code
            stream.fault, stream.words = _fault(error)
            _close(stream.items)
        stream.last_s = time.perf_counter() - started
        stream.run_s += stream.last_s
        if chunk is None:
            self._end(stream)
            return
        self._emit(stream, chunk)
        if stream.has_credit:
            self._runnable.append(stream)

    async def _drive(self, stream: _Stream, items: AsyncIterator[Arrays]) -> None:
        started = time.perf_counter()
        try:
            async for arrays in items:
                self._emit(stream, as_chunk(stream.number, arrays, self._declared))
                await self._until_credited(stream)
                if stream.closed:
                    break  # the model swallowed the cancellation
        except asyncio.CancelledError:
            if not stream.closed:
                stream.fault, stream.words = "model", "the model's own task was cancelled"
        except _TooSlow:
            bound = f"more than {stream.window} bytes unread for {self._slow_after_s} s"
            stream.fault, stream.words = "slow", f"the client left {bound}"
        except Exception as error:  # noqa: BLE001 - the model's own code
            stream.fault, stream.words = _fault(error)
        await _aclose(items)
        stream.run_s = time.perf_counter() - started

    async def _until_credited(self, stream: _Stream) -> None:
        """Gives others their turn, and waits for credit. Raises _TooSlow where the engine does not wait so long."""
        await asyncio.sleep(0)
        if stream.has_credit:
            return
        stream.credited.clear()
        try:
            await asyncio.wait_for(stream.credited.wait(), self._slow_after_s)
        except TimeoutError:
            raise _TooSlow from None

    def _emit(self, stream: _Stream, chunk: Chunk) -> None:
        nbytes = chunk.nbytes
        if self._outbox_bytes and self._outbox_bytes + nbytes > FLUSH_BYTES:
            self.flush()
        stream.unread += nbytes
        stream.chunks += 1
        self._chunks.append(chunk)
        self._outbox_bytes += nbytes
        self._wake()

    def _end(self, stream: _Stream) -> None:
        self._open.pop(stream.number, None)
        self._ended.append(StreamEnd(stream.number, stream.chunks, stream.run_s, stream.fault, clipped(stream.words)))
        self._wake()


def _close(items: object) -> None:
    close = getattr(items, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception as error:  # noqa: BLE001 - the model's own clean-up: nobody waits for its outcome
        _complain(error)


async def _aclose(items: AsyncIterator[Arrays]) -> None:
    aclose = getattr(items, "aclose", None)
    if aclose is None:
        return
    try:
        await aclose()
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as for a sync one
        _complain(error)


def _complain(error: BaseException) -> None:
    print(f"podium worker: the model raised while its stream was closed: {user_error(error)}", file=sys.stderr)


def _fault(error: Exception) -> tuple[StreamFault, str]:
    if isinstance(error, InvalidInput):
        return "input", str(error)
    if isinstance(error, ContractBreach):
        return "contract", str(error)
    if not isinstance(error, PodiumError):
        error = wrapped(error, "the stream raised")
    return "model", str(error)


def _copied(tensor: Tensor) -> Tensor:
    """On the heap: a stream outlives the slots that its inputs came in."""
    return Tensor(tensor.dtype, tensor.shape, memoryview(bytes(tensor.data)))
