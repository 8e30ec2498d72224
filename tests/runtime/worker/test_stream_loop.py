"""The streaming loop of a worker over its real socket: credit, fairness, closing, and batches between the steps."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.worker.conversation import EPOCH, Conversation, a_model
from tests.support.waiting import eventually

from podium.ipc.descriptor import Inline
from podium.ipc.protocol import (
    Chunk,
    Chunks,
    CloseStream,
    Credit,
    Dispatch,
    OpenStream,
    Ready,
    Reply,
    Stop,
    StreamCredit,
    StreamEnd,
)
from podium_crds.tensors import DType

SYNC = """
    import numpy as np

    class Model:
        closed = 0

        def infer(self, inputs):
            return {"y": np.full_like(inputs["n"], Model.closed)}

        def infer_stream(self, inputs):
            count = int(inputs["n"][0, 0])
            try:
                for index in range(abs(count)):
                    yield {"i": np.array([index]), "bulk": np.zeros(1000, np.uint8)}
                if count < 0:
                    raise ValueError("fewer than none")
            finally:
                Model.closed += 1
"""
ASYNC = SYNC.replace("import numpy as np", "import asyncio, numpy as np").replace(
    "def infer_stream", "async def infer_stream"
)
WINDOW = 10_000


class Streaming(Conversation):
    """A conversation that sorts what it hears by stream."""

    def open(self, stream: int, count: int, window: int = WINDOW) -> None:
        message = OpenStream(EPOCH, stream, "r", {"n": Inline(0, DType.INT64, (1, 1))}, window)
        self.say(message, payloads=(np.array([[count]]).tobytes(),))

    def chunks(self, stream: int) -> list[Chunk]:
        heard = [message for message in self.heard if isinstance(message, Chunks)]
        return [chunk for message in heard for chunk in message.chunks if chunk.stream == stream]

    def indices(self, stream: int) -> list[int]:
        return [int(np.frombuffer(chunk.pieces[0].data, np.int64)[0]) for chunk in self.chunks(stream)]

    def end_of(self, stream: int) -> StreamEnd | None:
        heard = [message for message in self.heard if isinstance(message, Chunks)]
        ends = [end for message in heard for end in message.ended if end.stream == stream]
        assert len(ends) <= 1, "a stream ends once"
        return ends[0] if ends else None

    async def ended(self, stream: int) -> StreamEnd:
        await eventually(lambda: self.end_of(stream) is not None, within_s=10)
        end = self.end_of(stream)
        assert end is not None
        return end

    async def closed_count(self) -> int:
        """How many generators ran their clean-up: asked of the model itself, between the steps of its streams."""
        before = len(self.heard)
        message = Dispatch(EPOCH, 1, (1,), {"n": Inline(0, DType.INT64, (1, 1))})
        self.say(message, payloads=(np.array([[0]]).tobytes(),))
        await eventually(lambda: any(isinstance(m, Reply) for m in self.heard[before:]), within_s=10)
        return int(np.frombuffer(self.frames[-1], np.int64)[0])


@pytest.fixture(params=[SYNC, ASYNC], ids=["sync", "async"])
async def worker(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Streaming]:
    """Loaded and ready; once with a sync generator, once with an async one."""
    conversation = Streaming(tmp_path, a_model(tmp_path, request.param))
    try:
        ready = (await conversation.hears(2))[1]
        assert isinstance(ready, Ready)
        assert ready.streams
        assert ready.infers
        yield conversation
    finally:
        await conversation.end()


async def test_chunks_come_in_order_and_the_end_last(worker: Streaming) -> None:
    worker.open(1, 5)
    end = await worker.ended(1)
    assert worker.indices(1) == [0, 1, 2, 3, 4]
    assert (end.fault, end.chunks) == ("", 5)


async def test_a_stream_without_credit_pauses_and_goes_on_with_it(worker: Streaming) -> None:
    worker.open(1, 50)
    worker.open(2, 5)
    await worker.ended(2)
    sent = worker.chunks(1)
    per_chunk = sent[0].nbytes
    assert await worker.closed_count() == 1, "the other one waits"
    assert WINDOW <= sum(chunk.nbytes for chunk in worker.chunks(1)) < WINDOW + per_chunk
    for read in range(5, 50, 5):
        await eventually(lambda read=read: len(worker.chunks(1)) >= read)
        worker.say(StreamCredit(EPOCH, (Credit(1, 5 * per_chunk), Credit(99, 1))))
    assert (await worker.ended(1)).chunks == 50
    assert worker.indices(1) == list(range(50))


async def test_thirty_one_streams_end_while_one_is_stopped(worker: Streaming) -> None:
    worker.open(0, 10_000)
    for stream in range(1, 32):
        worker.open(stream, 5)
    for stream in range(1, 32):
        assert (await worker.ended(stream)).chunks == 5
    assert worker.end_of(0) is None
    held = worker.chunks(0)
    assert sum(chunk.nbytes for chunk in held) < WINDOW + held[0].nbytes


async def test_closing_runs_the_models_clean_up(worker: Streaming) -> None:
    worker.open(1, 1000)
    await eventually(lambda: worker.chunks(1))
    worker.say(CloseStream(EPOCH, 1), CloseStream(EPOCH, 1), CloseStream(EPOCH, 7))
    assert (await worker.ended(1)).fault == ""
    assert await worker.closed_count() == 1


async def test_a_stream_closed_before_its_first_step_ends_too(worker: Streaming) -> None:
    worker.open(1, 1000)
    worker.say(CloseStream(EPOCH, 1))
    await worker.ended(1)
    worker.open(2, 3)
    assert (await worker.ended(2)).chunks == 3


async def test_what_the_model_raises_ends_its_stream_alone(worker: Streaming) -> None:
    worker.open(1, -3)
    worker.open(2, 3)
    end = await worker.ended(1)
    assert (end.fault, end.chunks) == ("model", 3)
    assert "fewer than none" in end.message
    assert (await worker.ended(2)).fault == ""


async def test_rows_of_one_step_share_a_message(worker: Streaming) -> None:
    """As many messages as chunks would be a wake-up of the front end for every token of every row."""
    for stream in range(32):
        worker.open(stream, 8)
    for stream in range(32):
        await worker.ended(stream)
    messages = [message for message in worker.heard if isinstance(message, Chunks)]
    assert sum(len(message.chunks) for message in messages) == 32 * 8
    assert len(messages) < 32 * 8, "no message had more than one row"


async def test_stop_closes_what_is_open(worker: Streaming) -> None:
    worker.open(1, 1000)
    await eventually(lambda: worker.chunks(1))
    worker.say(Stop(EPOCH))
    await eventually(lambda: worker.status == 0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 5", "expected a generator"),
        ("yield 5", "expected a dictionary"),
        ("yield {'i': np.zeros(2 << 20, np.uint8)}", "yield smaller parts"),
        ("yield {'i': np.zeros(1, complex)}", "has no tensor type"),
    ],
)
async def test_what_is_no_stream_is_refused_by_name(tmp_path: Path, body: str, said: str) -> None:
    source = f"""
    import numpy as np

    class Model:
        def infer_stream(self, inputs):
            {body}
"""
    worker = Streaming(tmp_path, a_model(tmp_path, source))
    try:
        ready = (await worker.hears(2))[1]
        assert isinstance(ready, Ready)
        assert not ready.infers
        worker.open(1, 1)
        end = await worker.ended(1)
        assert end.fault == "model"
        assert said in end.message
    finally:
        await worker.end()
