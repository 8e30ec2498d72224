"""Closed-loop load with large binary bodies over plain sockets, a thread for each connection, every answer compared."""

import os
import socket
import statistics
import threading
import time
from collections.abc import Callable

import numpy as np

from benchmarks.load import Load, WrongAnswersError
from benchmarks.peers.server import Running

TIMEOUT_S = 30.0
PIECE = 1 << 20
LIMIT_ROUNDS = 200


def load(server: Running, request: bytes, wanted: bytes, connections: int, seconds: float, cpus: set[int]) -> Load:
    """`wanted`: the end of every answer's body. Raises WrongAnswersError."""
    taken: list[float] = []
    failed: list[str] = []
    until = time.perf_counter() + seconds

    def one() -> None:
        os.sched_setaffinity(0, cpus)
        memory = bytearray(len(wanted) + PIECE)
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as line:
                while time.perf_counter() < until:
                    begun = time.perf_counter()
                    line.sendall(request)
                    body = answer(line, memory)
                    taken.append(time.perf_counter() - begun)
                    if not same(body[-len(wanted) :], wanted):
                        raise WrongAnswersError(f"{server.contender.name} answered {bytes(body[:200])!r}")
        except (OSError, ValueError, WrongAnswersError) as error:
            failed.append(str(error))

    begun = time.perf_counter()
    _in_threads(one, connections)
    if failed:
        raise WrongAnswersError(f"{server.contender.name}: {failed[0]}")
    taken.sort()
    at = [1e6 * taken[min(len(taken) - 1, int(share * len(taken)))] for share in (0.5, 0.99, 0.999)]
    return Load(len(taken), len(taken) / (time.perf_counter() - begun), *at)


def loopback_mb_s() -> float:
    """What a socket pair over the loopback moves there and back, one MiB at a time, in MB/s of one direction."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S)
        far, _ = listener.accept()
    piece = bytes(PIECE)

    def echo() -> None:
        buffer = bytearray(PIECE)
        for _ in range(LIMIT_ROUNDS):
            _fill(far, memoryview(buffer))
            far.sendall(buffer)

    thread = threading.Thread(target=echo)
    thread.start()
    buffer, took = bytearray(PIECE), []
    for _ in range(LIMIT_ROUNDS):
        begun = time.perf_counter()
        near.sendall(piece)
        _fill(near, memoryview(buffer))
        took.append(time.perf_counter() - begun)
    thread.join(TIMEOUT_S)
    near.close()
    far.close()
    return PIECE / statistics.median(took) / 1e6


def _in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def answer(line: socket.socket, memory: bytearray) -> memoryview:
    """The body of the next answer, in `memory`, which grows if it must. Raises ValueError for a status other than 200.

    A client that touches new pages for every answer measures itself.
    """
    came = bytearray()
    while (end := came.find(b"\r\n\r\n")) < 0:
        piece = line.recv(65536)
        if not piece:
            raise ValueError("the connection was closed")
        came += piece
    head = bytes(came[:end]).lower()
    if not head.startswith(b"http/1.1 200"):
        raise ValueError(f"answered with {head[:40]!r}")
    length = int(head.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0])
    if len(memory) < length:
        memory.extend(bytes(length - len(memory)))
    begun = came[end + 4 :]
    body = memoryview(memory)[:length]
    body[: len(begun)] = begun
    _fill(line, body[len(begun) :])
    return body


def same(one: memoryview | bytes, other: memoryview | bytes) -> bool:
    """Byte for byte; comparing memoryviews takes an object for each."""
    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))


def _fill(line: socket.socket, target: memoryview) -> None:
    position = 0
    while position < len(target):
        count = line.recv_into(target[position:])
        if not count:
            raise ValueError("the connection was closed inside an answer")
        position += count
