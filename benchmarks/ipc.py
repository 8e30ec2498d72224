"""P3: one tensor from one process to another and a word back, with the modules that serve, against what Python has."""

import asyncio
import multiprocessing as mp
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
import zmq
from numpy.typing import NDArray

from benchmarks.programs import ipc_receivers
from benchmarks.programs.ipc_receivers import CHECK, PEER
from benchmarks.result import Bar, Effort, Result
from podium.ipc.arena import Arena
from podium.ipc.channel import Broker, Payloads
from podium.ipc.descriptor import Descriptor, Inline, TensorRef
from podium.ipc.lease import Lease
from podium.ipc.protocol import INLINE_BYTES, Dispatch, Failure, FromWorker
from podium_crds.tensors import DType

SIZES = {"1 KB": 1 << 10, "64 KB": 64 << 10, "1 MB": 1 << 20, "10 MB": 10 << 20, "100 MB": 100 << 20}
HOPS = {"1 KB": 400, "64 KB": 400, "1 MB": 100, "10 MB": 20, "100 MB": 4}
ARENA_BYTES = 256 << 20
TIMEOUT_S = 30.0
OURS, IN_PLACE, QUEUE, PYZMQ, LIMIT = (
    "Podium",
    "Podium, written in place",
    "multiprocessing.Queue",
    "pyzmq",
    "memcpy + wake-up",
)
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Way:
    """One way between two processes."""

    digest: Callable[[Array], str]
    """Sends the array; the digest of what arrived."""
    seconds: Callable[[Array, int], list[float]]
    """Sends it that often; how long each took."""


def stepwise(hop: Callable[[Array, bool], str]) -> Way:
    """A way whose hop is a plain call."""

    def seconds(array: Array, hops: int) -> list[float]:
        taken = []
        for _ in range(hops):
            begun = time.perf_counter()
            hop(array, False)
            taken.append(time.perf_counter() - begun)
        return taken

    return Way(lambda array: hop(array, True), seconds)


def run(effort: Effort) -> Result:
    """Alternating rounds over sizes and ways; the answer of each way is checked once a round by its digest."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        ways = {name: stack.enter_context(way()) for name, way in WAYS.items()}
        for turn in range(effort.rounds):
            for size, nbytes in SIZES.items():
                array = np.random.default_rng(turn).random(nbytes // 4, dtype=np.float32)
                for name, hop in ways.items():
                    seconds.setdefault((name, size), []).append(_timed(name, hop, array, HOPS[size]))
            sys.stdout.write(f"  round {turn + 1} of {effort.rounds}\n")
            sys.stdout.flush()
        growth = _growth(ways[OURS])
    us = {key: statistics.median(values) * 1e6 for key, values in seconds.items()}
    rows = tuple({"way": name, **{size: f"{us[name, size]:.0f} us" for size in SIZES}} for name in WAYS)
    grown = {"way": f"{OURS}, 1 MB, 1x 4x 16x hops", "us a hop": [round(hop * 1e6, 1) for hop in growth]}
    return Result("ipc", (*rows, grown), tuple(_bars(us, growth)), _notes(us))


def _bars(us: dict[tuple[str, str], float], growth: list[float]) -> Iterator[Bar]:
    yield Bar("P3", "1 MB, over multiprocessing.Queue", us[OURS, "1 MB"] / us[QUEUE, "1 MB"], 1 / 10)
    yield Bar("P3", "100 MB, over multiprocessing.Queue", us[OURS, "100 MB"] / us[QUEUE, "100 MB"], 1 / 40)
    for size in ("10 MB", "100 MB"):
        yield Bar("P3", f"{size}, over one memcpy and the wake-ups", us[OURS, size] / us[LIMIT, size], 1.5)
    for size in ("1 KB", "64 KB", "1 MB"):
        yield Bar("P3", f"{size}, over bare pyzmq", us[OURS, size] / us[PYZMQ, size], 1.3)
    yield Bar("P3", "written in place, 100 MB over 1 KB", us[IN_PLACE, "100 MB"] / us[IN_PLACE, "1 KB"], 2.0)
    yield Bar("P3", "cost of a hop with 16 × the hops, over 1 ×", growth[2] / growth[0], 1.2)


def _notes(us: dict[tuple[str, str], float]) -> tuple[str, ...]:
    away = ", ".join(f"{size}: {us[OURS, size] / us[LIMIT, size]:.2f}" for size in SIZES)
    return (
        "a hop: the tensor there, copied from the sender's memory, and a word back; reading it costs extra",
        f"physical limit: one memcpy and a byte through a pipe there and back; we take times that, {away}",
    )


def _timed(name: str, way: Way, array: Array, hops: int) -> float:
    """Seconds of one hop, the median."""
    if name != LIMIT and way.digest(array) != sha256(array.data).hexdigest():
        raise AssertionError(f"{name} delivered something else than was sent")
    way.seconds(array, 1)
    return statistics.median(way.seconds(array, hops))


def _growth(way: Way) -> list[float]:
    array = np.ones(SIZES["1 MB"] // 4, dtype=np.float32)
    return [statistics.median(way.seconds(array, 100 * factor)) for factor in (1, 4, 16)]


@contextmanager
def _queue() -> Iterator[Way]:
    context = mp.get_context("spawn")
    tensors, answers = context.Queue(), context.Queue()
    process = context.Process(target=ipc_receivers.over_queue, args=(tensors, answers))
    process.start()

    def hop(array: Array, check: bool) -> str:
        tensors.put((check, array))
        answer: str = answers.get(timeout=TIMEOUT_S)
        return answer

    try:
        yield stepwise(hop)
    finally:
        tensors.put(None)
        process.join(TIMEOUT_S)


@contextmanager
def _pyzmq() -> Iterator[Way]:
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as directory, zmq.Context() as zmq_context:
        endpoint = f"ipc://{directory}/pair"
        with zmq_context.socket(zmq.PAIR) as pair:
            pair.bind(endpoint)
            process = mp.get_context("spawn").Process(target=ipc_receivers.over_pyzmq, args=(endpoint,))
            process.start()

            def hop(array: Array, check: bool) -> str:
                pair.send_multipart([b"1" if check else b"0", array.data.cast("B")])
                return pair.recv().decode()

            try:
                yield stepwise(hop)
            finally:
                pair.send_multipart([b"0", b""])
                process.join(TIMEOUT_S)


@contextmanager
def _limit() -> Iterator[Way]:
    here, there = mp.get_context("spawn").Pipe()
    process = mp.get_context("spawn").Process(target=ipc_receivers.over_pipe, args=(there,))
    process.start()
    room = np.empty(max(SIZES.values()) // 4, dtype=np.float32)
    room.fill(0)

    def hop(array: Array, _check: bool) -> str:
        np.copyto(room[: array.size], array)
        os.write(here.fileno(), b"1")
        os.read(here.fileno(), 1)
        return ""

    try:
        yield stepwise(hop)
    finally:
        os.write(here.fileno(), b"0")
        process.join(TIMEOUT_S)


class _Podium:
    """Broker and arena in a uvloop, as in the front end; a hop runs the loop until the word has come back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        self._loop = loop
        self.arena = Arena.create(ARENA_BYTES)
        self.broker = loop.run_until_complete(self._open(directory))
        self._heard: asyncio.Future[FromWorker] = loop.create_future()
        self.broker.register(PEER, self._hear, lambda _, error: self._heard.set_exception(error))
        self._numbers = 0
        self._written: dict[int, TensorRef] = {}
        self._lease: Lease | None = None

    async def _open(self, directory: Path) -> Broker:
        return Broker.open(directory)

    def ready(self) -> None:
        """Waits for the worker's first word."""
        self._loop.run_until_complete(asyncio.wait_for(self._heard, TIMEOUT_S))

    def way(self, hop: Callable[[Array, bool], Coroutine[None, None, str]]) -> Way:
        """All hops of a measurement in one run of the loop, as in a server."""

        async def many(array: Array, hops: int) -> list[float]:
            taken = []
            for _ in range(hops):
                begun = time.perf_counter()
                await hop(array, False)
                taken.append(time.perf_counter() - begun)
            return taken

        run = self._loop.run_until_complete
        return Way(lambda array: run(hop(array, True)), lambda array, hops: run(many(array, hops)))

    async def hop(self, array: Array, check: bool) -> str:
        """Copies into the arena, or into the message below the threshold of the runtime."""
        data = array.data.cast("B")
        if data.nbytes <= INLINE_BYTES:
            return await self._sent(Inline(0, DType.FP32, array.shape), [bytes(data)], check)
        buffer = self.arena.allocate(data.nbytes)
        buffer.data[: data.nbytes] = data
        slot = buffer.lease.slot
        self.arena.ledger.seal(slot)
        try:
            ref = Descriptor(slot.offset, slot.generation, 0, data.nbytes, DType.FP32, array.shape)
            return await self._sent(ref, (), check)
        finally:
            buffer.lease.release()

    async def hop_in_place(self, array: Array, check: bool) -> str:
        """What was written there before: the same slot for the same array."""
        ref = self._written.get(array.nbytes)
        if ref is None or check:
            ref = self._written[array.nbytes] = self._write(array)
        return await self._sent(ref, (), check)

    def _write(self, array: Array) -> TensorRef:
        if self._lease is not None:
            self._lease.release()
            self._written.clear()
        buffer = self.arena.allocate(array.nbytes)
        self._lease = buffer.lease
        buffer.data[: array.nbytes] = array.data.cast("B")
        slot = buffer.lease.slot
        self.arena.ledger.seal(slot)
        return Descriptor(slot.offset, slot.generation, 0, array.nbytes, DType.FP32, array.shape)

    async def _sent(self, ref: TensorRef, payloads: Payloads, check: bool) -> str:
        self._numbers += 1
        self._heard = self._loop.create_future()
        self.broker.send(PEER, Dispatch(1, CHECK if check else self._numbers, (1,), {"x": ref}), payloads)
        answer = await self._heard
        return answer.message if isinstance(answer, Failure) else ""

    def _hear(self, _peer: bytes, message: FromWorker, _payloads: Payloads) -> None:
        self._heard.set_result(message)


@contextmanager
def _podium(way: str) -> Iterator[Way]:
    loop = uvloop.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as directory:
        podium = _Podium(loop, Path(directory) / "run")
        fd = os.dup(podium.arena.fd)
        arguments = [podium.broker.endpoint, str(fd), str(ARENA_BYTES), str(os.getpid())]
        command = [sys.executable, "-m", "benchmarks.programs.ipc_receivers", *arguments]
        process = subprocess.Popen(command, pass_fds=(fd,))
        try:
            podium.ready()
            yield podium.way(podium.hop if way == OURS else podium.hop_in_place)
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)
            os.close(fd)
            podium.broker.close()
            podium.arena.close()
            loop.close()


WAYS: dict[str, Callable[[], Any]] = {
    OURS: lambda: _podium(OURS),
    IN_PLACE: lambda: _podium(IN_PLACE),
    QUEUE: _queue,
    PYZMQ: _pyzmq,
    LIMIT: _limit,
}
