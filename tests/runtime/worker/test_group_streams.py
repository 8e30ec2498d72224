"""Streams of worker groups over real processes: what readers get, and what stays bounded, whatever else happens."""

import asyncio
import os
import signal
from typing import Any

import numpy as np
import pytest
from tests.runtime.worker.models import GroupMaker, ask, column
from tests.support.waiting import eventually

from podium.errors import (
    ContractBreach,
    DeadlineExceeded,
    GroupStopped,
    ModelError,
    PodiumError,
    PoisonedRequest,
    StreamingMismatch,
    StreamsFull,
    WorkerDied,
)
from podium.ipc.protocol import MAX_CHUNK_BYTES, STREAM_WINDOW_BYTES
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.dispatch.streamed import StreamedAnswer
from podium.telemetry.counting import StreamCounts
from podium_crds.tensors import DType, TensorSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNTING = """
    import os, signal, time
    import numpy as np

    class Model:
        '''Counts to its input in chunks of `bulk` bytes; `infer` tells how many streams are open, opened, ended.'''
        open = opened = ended = 0

        def load(self, ctx):
            self.folder = ctx.parameters["folder"]
            self.bulk = ctx.parameters.get("bulk", 8)

        def infer(self, inputs):
            counts = [Model.open, Model.opened, Model.ended, os.getpid()]
            return {"y": np.array([counts] * len(inputs["x"]), np.float32)}

        def infer_stream(self, inputs):
            count = int(inputs["x"][0, 0])
            Model.open += 1
            Model.opened += 1
            try:
                for index in range(abs(count)):
                    if count == -7:
                        time.sleep(0.002)  # slow steps: what came before them is sent before them
                        while index == 3 and not os.path.exists(self.folder + "/go"):
                            time.sleep(0.001)
                    if count == -1 or (count == -7 and index == 3):
                        os.kill(os.getpid(), signal.SIGKILL)
                    if count == -4:
                        raise ValueError("four is right out")
                    if count == -2:
                        if os.path.exists(self.folder + "/died"):
                            count = 2
                        else:
                            open(self.folder + "/died", "w").close()
                            os.kill(os.getpid(), signal.SIGKILL)
                    yield {"i": np.array([index]), "bulk": np.zeros(self.bulk, np.uint8)}
                Model.ended += 1
            finally:
                Model.open -= 1
"""
FOREVER = 1_000_000


def stream(group: WorkerGroup, count: int, *, within_s: float = 20.0) -> StreamedAnswer:
    deadline = asyncio.get_running_loop().time() + within_s
    inputs = {"x": Tensor.from_array(column(count))}
    return group.stream(inputs, request_id="test", deadline=deadline, counts=StreamCounts())


async def read_all(answer: StreamedAnswer) -> list[int]:
    async with answer:
        return [int(chunk["i"].array()[0]) async for chunk in answer]


async def exhaust(answer: StreamedAnswer) -> None:
    while await answer.read():
        pass


async def counters(group: WorkerGroup) -> list[int]:
    """Open, opened and ended streams as the model itself counts them, and its pid."""
    return [int(value) for value in (await ask(group, column(0)))[0]]


async def test_a_stream_gives_every_chunk_in_order(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    assert group.streams
    assert await read_all(stream(group, 500)) == list(range(500))
    assert (await counters(group))[:3] == [0, 1, 1]


async def test_batches_are_answered_while_streams_go_on(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    async with stream(group, FOREVER) as endless:
        assert await endless.read()
        for _ in range(20):
            assert (await counters(group))[:2] == [1, 1]
            assert await endless.read()


async def test_thirty_one_readers_do_not_notice_one_that_stopped(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING, engine={"parameters": {"bulk": 4000}})
    async with stream(group, FOREVER) as stopped:
        assert await stopped.read()
        answers = await asyncio.gather(*(read_all(stream(group, 300)) for _ in range(31)))
        assert answers == [list(range(300))] * 31
        assert (await counters(group))[:3] == [1, 32, 31]
        held = sum(tensor.nbytes for chunk in await stopped.read() for tensor in chunk.values())
        assert held <= STREAM_WINDOW_BYTES + 5000


async def test_a_reader_that_leaves_closes_the_generator(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    for _ in range(3):
        async with stream(group, FOREVER) as answer:
            assert await answer.read()
    await eventually(lambda: group.streams_open == 0, within_s=10)
    assert (await counters(group))[:3] == [0, 3, 0]


async def test_a_cancelled_reader_closes_the_generator(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    seen: list[Any] = []

    async def read() -> None:
        async with stream(group, FOREVER) as answer:
            while chunks := await answer.read():
                seen.extend(chunks)

    reader = asyncio.create_task(read())
    await eventually(lambda: len(seen) > 3, within_s=10)
    reader.cancel()
    await asyncio.wait((reader,))
    await eventually(lambda: group.streams_open == 0, within_s=10)
    assert (await counters(group))[0] == 0


async def test_a_death_in_the_stream_ends_it_with_a_type_after_its_last_chunk(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    async with stream(group, FOREVER) as answer:
        assert await answer.read()
        pid = (await counters(group))[3]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL") as died:
            await exhaust(answer)
        assert died.value.started
    assert await read_all(stream(group, 3)) == [0, 1, 2]


async def test_a_stream_that_kills_before_its_first_chunk_is_begun_anew_once(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING, idempotent=True)
    assert await read_all(stream(group, -2)) == [0, 1]
    with pytest.raises(PoisonedRequest):
        await read_all(stream(group, -1))


async def test_a_stream_of_a_model_that_is_not_idempotent_is_never_begun_anew(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    with pytest.raises(WorkerDied):
        await read_all(stream(group, -2))


async def test_a_stream_that_had_begun_is_never_begun_anew(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING, idempotent=True)
    async with stream(group, -7) as answer:
        assert await answer.read()
        groups.go()
        with pytest.raises(WorkerDied):
            await exhaust(answer)


async def test_the_deadline_ends_a_stream_and_closes_its_generator(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    with pytest.raises(DeadlineExceeded):
        await read_all(stream(group, FOREVER, within_s=0.2))
    await eventually(lambda: group.streams_open == 0, within_s=10)
    assert (await counters(group))[0] == 0


async def test_more_streams_than_allowed_are_refused_at_once(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING, batching={"max_concurrent_streams": 2}, instances=2)
    answers = [stream(group, FOREVER) for _ in range(4)]
    try:
        with pytest.raises(StreamsFull, match="4 streams"):
            stream(group, 1)
        for answer in answers:
            assert await answer.read(), "each has room on one of the two instances"
    finally:
        for answer in answers:
            answer.close()
    await eventually(lambda: group.streams_open == 0, within_s=10)
    assert await read_all(stream(group, 2)) == [0, 1]


async def test_what_the_model_raises_ends_its_stream_alone(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    async with stream(group, FOREVER) as other:
        assert await other.read()
        with pytest.raises(ModelError, match="four is right out"):
            await read_all(stream(group, -4))
        assert await other.read()


async def test_another_dtype_than_declared_is_a_breach(groups: GroupMaker) -> None:
    outputs = (TensorSpec(name="i", dtype=DType.FP32, shape=(-1,)),)
    group = await groups.start(COUNTING, outputs=outputs)
    with pytest.raises(ContractBreach, match="declared is FP32"):
        await read_all(stream(group, 3))


async def test_who_only_streams_refuses_batches_and_the_other_way_round(groups: GroupMaker) -> None:
    only = """
    class Model:
        def infer_stream(self, inputs):
            yield {"i": inputs["x"]}
    """
    group = await groups.start(only)
    with pytest.raises(StreamingMismatch, match="text/event-stream"):
        await ask(group, column(1))
    plain = await groups.start()
    with pytest.raises(StreamingMismatch, match="infer_stream"):
        stream(plain, 1)


async def test_a_stopping_group_ends_its_streams_with_a_type_after_the_grace(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    async with stream(group, FOREVER) as answer:
        assert await answer.read()
        await group.stop(0.2)
        with pytest.raises(PodiumError) as ended:
            await exhaust(answer)
        assert isinstance(ended.value, (GroupStopped, WorkerDied))


async def test_a_stopping_group_waits_for_a_stream_that_ends_in_time(groups: GroupMaker) -> None:
    group = await groups.start(COUNTING)
    reader = asyncio.create_task(read_all(stream(group, 2000)))
    await eventually(lambda: group.streams_open == 1, within_s=10)
    await group.stop(20.0)
    assert await reader == list(range(2000))


async def test_inputs_in_the_arena_are_given_back_once_the_worker_has_copied_them(groups: GroupMaker) -> None:
    """The stream runs on, its slots are free: long answers must not hold the arena."""
    group = await groups.start(COUNTING)
    arena = groups.pod.arena
    big = np.zeros((1, 100_000), np.float32)
    big[0, 0] = FOREVER
    tensor = arena.tensor(DType.FP32, (1, 100_000), big.nbytes)
    tensor.data[:] = big.tobytes()
    tensor = arena.seal(tensor)
    deadline = asyncio.get_running_loop().time() + 20
    answer = group.stream({"x": tensor}, request_id="test", deadline=deadline, counts=StreamCounts())
    tensor.release()
    async with answer:
        assert await answer.read()
        assert arena.stats().slots == 0
        assert (await counters(group))[0] == 1


async def test_a_hostile_worker_that_ignores_the_window_is_killed(groups: GroupMaker) -> None:
    source = f"""
    import numpy as np
    from podium.worker.streams import _Stream
    _Stream.has_credit = property(lambda self: True)

    class Model:
        def infer_stream(self, inputs):
            while True:
                yield {{"bulk": np.zeros({MAX_CHUNK_BYTES // 2}, np.uint8)}}
    """
    group = await groups.start(source)
    async with stream(group, 1) as answer:
        assert await answer.read()
        await eventually(lambda: group.stats().restarts == 1, within_s=20)
        with pytest.raises(ModelError, match="refused"):
            await exhaust(answer)
