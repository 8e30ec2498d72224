"""Open-loop load: requests leave when a Poisson process says so, whatever has become of the ones before.

A latency counts from when the request should have left, so that a server which stalls pays for everyone who would have
come meanwhile (no coordinated omission); how late the generator itself was is reported beside. Runs as its own process:
`python -m benchmarks.openloop PORT PATH RATE SECONDS CONNECTIONS DEADLINE_S BODY_FILE ANSWER_FILE`, result as JSON.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import uvloop

from benchmarks.peers.server import Running

GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a load."""

    rate: float
    """Requests per second, on average."""
    seconds: float
    connections: int
    deadline_s: float = 60.0
    """An answer that takes longer is late."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of the requests. Latencies in milliseconds, of the answered ones."""

    offered_rps: float
    sent: int
    answered: int
    late: int
    """Of the answered: after the deadline, which counts from when the request was due."""
    refused: int
    """503 and 504."""
    other: int
    """Wrong answers, other codes, lost connections."""
    unanswered: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    refused_p99_ms: float
    """From when the request was sent."""
    generator_late_p99_ms: float
    seconds: float

    @property
    def goodput(self) -> float:
        """Right answers in time, per second."""
        return (self.answered - self.late) / self.seconds


class _Line(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._came = b""
        self.due = 0.0
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Free."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._load.free(self)

    def send(self, due: float) -> None:
        """The request that was due then."""
        self.due, self.sent = due, time.monotonic()
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        """Collects an answer by its Content-Length."""
        self._came += data
        end = self._came.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._came[:end].lower()
        length = int(head.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._came) >= end + 4 + length:
            answer, self._came = self._came[end + 4 : end + 4 + length], b""
            self._load.answered(self, int(head[9:12]), answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Counted as an error where an answer was owed."""
        del exc
        self._load.lost(self)


class _Load:
    def __init__(self, request: bytes, right: bytes) -> None:
        self.request = request
        self._right = right
        self._free: deque[_Line] = deque()
        self._due: deque[float] = deque()
        self._owed: set[_Line] = set()
        self.sent = self.other = 0
        self.late: list[float] = []
        self.good: list[float] = []
        self.refusals: list[float] = []

    def free(self, line: _Line) -> None:
        """The connection can take a request: the one that has been due for longest."""
        if self._due:
            self._put(line, self._due.popleft())
        else:
            self._free.append(line)

    def offer(self, due: float) -> None:
        """A request is due."""
        if self._free:
            self._put(self._free.popleft(), due)
        else:
            self._due.append(due)

    def answered(self, line: _Line, status: int, answer: bytes) -> None:
        """An answer is complete."""
        self._owed.discard(line)
        took = time.monotonic() - line.due
        if status == 200 and answer == self._right:
            self.good.append(took)
        elif status in (503, 504):
            self.refusals.append(time.monotonic() - line.sent)
        else:
            self.other += 1
        self.free(line)

    def lost(self, line: _Line) -> None:
        """A connection has ended."""
        self.other += line in self._owed
        self._owed.discard(line)
        if line in self._free:
            self._free.remove(line)

    async def settle(self) -> int:
        """Waits for what is owed; returns how much never came."""
        until = time.monotonic() + GRACE_S
        while (self._owed or self._due) and time.monotonic() < until:  # noqa: ASYNC110 - bounded
            await asyncio.sleep(0.01)
        return len(self._owed) + len(self._due)

    def _put(self, line: _Line, due: float) -> None:
        self.sent += 1
        self.late.append(max(0.0, time.monotonic() - due))
        self._owed.add(line)
        line.send(due)


async def _generate(port: int, request: bytes, right: bytes, shape: Shape) -> Seen:
    rate, seconds, connections = shape.rate, shape.seconds, shape.connections
    load = _Load(request, right)
    for _ in range(connections):
        await asyncio.get_running_loop().create_connection(lambda: _Line(load), "127.0.0.1", port)
    chance = random.Random(1)
    begun = due = time.monotonic()
    while due < begun + seconds:
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        elif not load.sent % 16:
            await asyncio.sleep(0)
        load.offer(due)
        due += chance.expovariate(rate)
    unanswered = await load.settle()
    good = sorted(load.good)
    return Seen(
        rate,
        load.sent,
        len(good),
        sum(took > shape.deadline_s for took in good),
        len(load.refusals),
        load.other,
        unanswered,
        1000 * sum(good) / max(1, len(good)),
        _at(good, 0.5),
        _at(good, 0.99),
        _at(good, 0.999),
        _at(sorted(load.refusals), 0.99),
        _at(sorted(load.late), 0.99),
        seconds,
    )


def _at(ordered: list[float], share: float) -> float:
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def open_loop(server: Running, pair: tuple[bytes, bytes], shape: Shape, cpus: set[int]) -> Seen:
    """One run of the generator in a process of its own, on those processors."""
    with begun(server, pair, shape, cpus) as process:
        out, _ = process.communicate(timeout=shape.seconds + 60)
    return Seen(**json.loads(out))


def begun(server: Running, pair: tuple[bytes, bytes], shape: Shape, cpus: set[int]) -> "subprocess.Popen[bytes]":
    """The same, not waited for; its output is a Seen as JSON."""
    body, answer = pair
    with tempfile.NamedTemporaryFile(prefix="podium-bench-", delete=False) as body_file:
        body_file.write(body)
    with tempfile.NamedTemporaryFile(prefix="podium-bench-", delete=False) as answer_file:
        answer_file.write(answer)
    files = [body_file.name, answer_file.name]
    arguments = [server.port, server.contender.wire.path, *astuple(shape), *files]
    command = ["taskset", "-c", ",".join(map(str, sorted(cpus))), sys.executable, "-m", "benchmarks.openloop"]
    return subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE)


def main(arguments: list[str]) -> None:
    """See the module."""
    port, path, rate, seconds, connections, deadline_s, body_file, answer_file = arguments
    body, right = Path(body_file).read_bytes(), Path(answer_file).read_bytes()
    Path(body_file).unlink()
    Path(answer_file).unlink()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    shape = Shape(float(rate), float(seconds), int(connections), float(deadline_s))
    running = _generate(int(port), head.encode() + body, right, shape)
    sys.stdout.write(json.dumps(asdict(uvloop.run(running))))


if __name__ == "__main__":
    main(sys.argv[1:])
