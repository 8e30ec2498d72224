"""`Streams`: every answer in chunks that the workers of one group are giving, from admission to its one end.

Driven by events, like the dispatcher beside it, which keeps the batches. A stream waits here until a worker has room,
goes to the worker with the fewest, and comes back once if that worker dies before its first chunk and the model is
idempotent. What its reader has not taken is bounded by the stream's window: the worker pauses the generator.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from podium.batching.batcher import GatheredInputs, gather
from podium.batching.joining import STACKED
from podium.batching.queue import Waiting
from podium.errors import (
    ArenaExhausted,
    ClientTooSlow,
    ContractBreach,
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    PodiumError,
    PoisonedRequest,
    StreamsFull,
    WorkerDied,
)
from podium.ipc.channel import NoCredit, Payloads, PeerGone
from podium.ipc.protocol import (
    MAX_CHUNK_BYTES,
    STREAM_WINDOW_BYTES,
    Chunk,
    Chunks,
    FromWorker,
    OpenStream,
    StreamEnd,
)
from podium.ipc.tensor import Tensor, check_layout
from podium.serving.dispatch.stream_credit import CreditDesk
from podium.serving.workers.life import Events
from podium.serving.workers.pod import PodResources
from podium.serving.workers.supervisor import Supervisor
from podium_crds.assignment import Member

Outputs = dict[str, Tensor]
"""One chunk: heap tensors, owned by whoever has them."""

CLOSE_GRACE_S = 5.0
"""Beyond the model's own timeout: how long a worker may take to end a stream that it was told to close."""
CREDIT_STEP_BYTES = STREAM_WINDOW_BYTES // 4
"""Credit is given in steps of this: a message for every token would cost more than the token."""
FAULTS: Mapping[str, type[PodiumError]] = {
    "model": ModelError,
    "contract": ContractBreach,
    "input": InvalidInput,
    "slow": ClientTooSlow,
}


@dataclass(slots=True, eq=False)
class OpenAnswer:
    """One stream as its reader and the desk share it."""

    number: int
    request_id: str
    inputs: Mapping[str, Tensor]
    """Retained until the first chunk: until then another worker may have to begin anew."""
    instance: Supervisor | None = None
    """Who answers. None: it waits for a worker."""
    sent: GatheredInputs | None = None
    """The inputs as they went to the worker, until it says something."""
    chunks: deque[Chunk] = field(default_factory=deque)
    unread_bytes: int = 0
    """In `chunks`, and taken from there but not read to the end."""
    uncredited_bytes: int = 0
    """Read, and not yet told to the worker."""
    begun: bool = False
    """True once a chunk came."""
    deaths: int = 0
    is_over: bool = False
    """No chunk will follow those that are here."""
    error: PodiumError | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None


class Streams:
    """All streams of one group. Used from one event loop."""

    def __init__(self, pod: PodResources, instances: list[Supervisor], member: Callable[[], Member]) -> None:
        """`instances` is the group's list, which may be filled later; `member` gives it as it was tuned last."""
        self._pod = pod
        self._instances = instances
        self._member = member
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._open: dict[int, OpenAnswer] = {}
        """In a worker's hands until that worker says that they ended, whether they are still read or not."""
        self._pending: deque[OpenAnswer] = deque()
        """Without a worker yet, oldest first."""
        self._credit = CreditDesk(self._loop)
        self.idle = asyncio.Event()
        """Set while there is no stream."""
        self.idle.set()

    @property
    def active(self) -> int:
        """Streams that a worker has in hand or that wait for one."""
        return len(self._open) + len(self._pending)

    def beside(self, batches: Events) -> Events:
        """Events of which the streams take theirs; the rest goes on to `batches`."""

        def ready(instance: Supervisor) -> None:
            batches.ready(instance)
            self._place_pending()

        def message(instance: Supervisor, heard: FromWorker, payloads: Payloads) -> None:
            if isinstance(heard, Chunks):
                self._hear(instance, heard)
            else:
                batches.message(instance, heard, payloads)

        def died(instance: Supervisor, how: str, begun: int | None) -> None:
            batches.died(instance, how, begun)
            self._died(instance, how)

        return Events(ready, message, died)

    def open(self, inputs: Mapping[str, Tensor], request_id: str, deadline: float) -> OpenAnswer:
        """Admits a stream, and begins it where a worker has room. `close` must follow.

        Raises StreamsFull, DeadlineExceeded.
        """
        limit = self._member().batching.max_concurrent_streams * max(1, len(self._instances))
        if self.active >= limit:
            raise StreamsFull(f"{limit} streams of {self._member().name} are open already, as batching allows")
        if deadline <= self._loop.time():
            raise DeadlineExceeded("the deadline had passed when the stream was to begin")
        answer = OpenAnswer(next(self._numbers), request_id, dict(inputs))
        for tensor in answer.inputs.values():
            tensor.retain()
        answer.timer = self._loop.call_at(deadline, self._expire, answer)
        self.idle.clear()
        self._pending.append(answer)
        self._place_pending()
        return answer

    async def read(self, answer: OpenAnswer) -> list[Outputs]:
        """Every chunk that is there, at least one, in order; none at the end. What was read before is credited now.

        Raises what ended the stream, once all chunks before it were read.
        """
        self._credit_read(answer)
        while not answer.chunks:
            if answer.is_over:
                if answer.error is not None:
                    raise answer.error
                return []
            answer.news.clear()
            await answer.news.wait()
        taken = [_outputs(chunk) for chunk in answer.chunks]
        answer.uncredited_bytes += sum(chunk.nbytes for chunk in answer.chunks)
        answer.chunks.clear()
        return taken

    def close(self, answer: OpenAnswer) -> None:
        """Nobody reads it any more: its generator is closed, wherever it stands. Idempotent."""
        self._finish(answer, None)
        answer.chunks.clear()

    def abandon(self, error: PodiumError) -> None:
        """Ends everything. The workers have ended before."""
        for answer in (*self._pending, *self._open.values()):
            self._finish(answer, error)
            self._forget(answer)
        self._note_idle()

    def count_on(self, instance: Supervisor) -> int:
        """Streams in that worker's hands."""
        return sum(answer.instance is instance for answer in self._open.values())

    def _place_pending(self) -> None:
        while self._pending:
            instance = self._roomiest()
            if instance is None:
                return
            answer = self._pending.popleft()
            if not self._place(answer, instance):
                self._pending.appendleft(answer)

    def _roomiest(self) -> Supervisor | None:
        """The ready worker with the fewest streams, if it has room for one."""
        ready = [instance for instance in self._instances if instance.ready]
        if not ready:
            return None
        best = min(ready, key=self.count_on)
        return best if self.count_on(best) < self._member().batching.max_concurrent_streams else None

    def _place(self, answer: OpenAnswer, instance: Supervisor) -> bool:
        """Gives the stream to that worker. False where it is gone; an answer that cannot be sent has ended."""
        now = self._loop.time()
        request = Waiting(answer.request_id, answer.inputs, 1, (), now, now, self._loop.create_future())
        try:
            sent = gather([request], STACKED, self._pod.arena, instance.holder, self._pod.options.inline_bytes)
        except ArenaExhausted as error:
            self._finish(answer, error)
            return True
        message = OpenStream(instance.epoch, answer.number, answer.request_id[:256], sent.refs)
        try:
            instance.send(message, sent.payloads)
        except (PeerGone, NoCredit) as error:
            sent.release()
            instance.kill(f"it takes no stream: {error}")
            return False
        answer.instance, answer.sent = instance, sent
        self._open[answer.number] = answer
        return True

    def _hear(self, instance: Supervisor, message: Chunks) -> None:
        for chunk in message.chunks:
            answer = self._open.get(chunk.stream)
            if answer is None or answer.instance is not instance:
                instance.kill(f"it sent a chunk of stream {chunk.stream}, which it does not have")
                return
            if problem := self._take(answer, chunk):
                self._finish(answer, ModelError(f"the worker's answer was refused: {problem}"))
                instance.kill(problem)
                return
        for end in message.ended:
            answer = self._open.get(end.stream)
            if answer is None or answer.instance is not instance:
                instance.kill(f"it ended stream {end.stream}, which it does not have")
                return
            self._ended(answer, end)
        if message.ended:
            self._place_pending()
            self._note_idle()

    def _take(self, answer: OpenAnswer, chunk: Chunk) -> str | None:
        """One chunk came. Returns what is wrong with it."""
        answer.begun = True
        _let_go(answer)
        _release_inputs(answer)
        if answer.is_over:  # nobody reads it: it was on its way when the stream was closed
            return None
        try:
            for piece in chunk.pieces:
                check_layout(piece.dtype, piece.shape, len(piece.data))
        except InvalidInput as error:
            return str(error)
        answer.unread_bytes += chunk.nbytes
        if answer.unread_bytes > STREAM_WINDOW_BYTES + 2 * MAX_CHUNK_BYTES:
            return f"it sent {answer.unread_bytes} bytes of a stream whose reader has room for {STREAM_WINDOW_BYTES}"
        answer.chunks.append(chunk)
        answer.news.set()
        return None

    def _ended(self, answer: OpenAnswer, end: StreamEnd) -> None:
        _let_go(answer)
        fault = FAULTS.get(end.fault)
        self._forget(answer)
        self._finish(answer, fault(end.message) if fault else None)

    def _died(self, instance: Supervisor, how: str) -> None:
        self._credit.forget(instance)
        what = f"the worker of {self._member().name} {how}"
        for answer in [answer for answer in self._open.values() if answer.instance is instance]:
            self._forget(answer)
            if not answer.is_over:
                self._bereave(answer, what)
        self._place_pending()
        self._note_idle()

    def _bereave(self, answer: OpenAnswer, what: str) -> None:
        """Decides on a stream whose worker died: begun anew where nothing of it was seen and that does no harm."""
        answer.deaths += 1
        if answer.begun or not self._member().idempotent:
            self._finish(answer, WorkerDied(f"{what} while it answered the stream", started=True))
        elif answer.deaths >= 2:
            text = f"{what}, the second one with this stream; it is not tried again"
            self._finish(answer, PoisonedRequest(text))
        else:
            self._pending.appendleft(answer)

    def _expire(self, answer: OpenAnswer) -> None:
        where = "before the first chunk" if not answer.begun else "while the stream went on"
        self._finish(answer, DeadlineExceeded(f"the deadline passed {where}"))

    def _finish(self, answer: OpenAnswer, error: PodiumError | None) -> None:
        """No chunk will follow. What the worker still has of it is closed; idempotent."""
        if answer.is_over:
            return
        answer.is_over, answer.error = True, error
        answer.news.set()
        if answer.timer is not None:
            answer.timer.cancel()
        _release_inputs(answer)
        if answer in self._pending:
            self._pending.remove(answer)
            self._note_idle()
        elif answer.number in self._open and answer.instance is not None:
            self._credit.close(answer.instance, answer.number)
            longest = self._member().timeout_seconds + CLOSE_GRACE_S
            answer.timer = self._loop.call_later(longest, self._hung, answer, answer.instance.epoch)

    def _hung(self, answer: OpenAnswer, epoch: int) -> None:
        if answer.instance is not None and answer.instance.epoch == epoch and answer.number in self._open:
            answer.instance.kill(f"it did not end stream {answer.number}, which nobody reads")

    def _forget(self, answer: OpenAnswer) -> None:
        """The worker has it no more."""
        self._open.pop(answer.number, None)
        answer.instance = None
        _let_go(answer)
        if answer.is_over and answer.timer is not None:
            answer.timer.cancel()

    def _credit_read(self, answer: OpenAnswer) -> None:
        if answer.uncredited_bytes >= CREDIT_STEP_BYTES and answer.instance is not None and not answer.is_over:
            self._credit.give(answer.instance, answer.number, answer.uncredited_bytes)
            answer.unread_bytes -= answer.uncredited_bytes
            answer.uncredited_bytes = 0

    def _note_idle(self) -> None:
        if not self.active:
            self.idle.set()


def _let_go(answer: OpenAnswer) -> None:
    """The worker has copied its inputs, or is gone."""
    if answer.sent is not None:
        answer.sent.release()
        answer.sent = None


def _release_inputs(answer: OpenAnswer) -> None:
    """It will not be begun anew."""
    inputs, answer.inputs = answer.inputs, {}
    for tensor in inputs.values():
        tensor.release()


def _outputs(chunk: Chunk) -> Outputs:
    return {piece.name: Tensor(piece.dtype, piece.shape, memoryview(piece.data)) for piece in chunk.pieces}
