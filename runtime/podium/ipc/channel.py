"""The control plane: one ROUTER in the front end, one DEALER in each worker, over ipc:// by a socket without a name.

Messages are small and bounded; a full pipe is an error to act on, never hidden buffering. The ROUTER's descriptor is
edge-triggered: after every send and receive ZMQ_EVENTS is read again, or a message would lie there unseen.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import zmq

from podium.errors import PodiumError, ProtocolError
from podium.ipc.protocol import (
    MAX_HEADER_BYTES,
    MAX_INLINE_BYTES,
    FromWorker,
    ToWorker,
    decode_from_worker,
    decode_to_worker,
    encode,
)

MESSAGES_PER_WAKE_UP = 64
"""Then the event loop gets its turn."""
HIGH_WATER_MESSAGES = 64
"""Unsent messages to or from one worker; with one batch at a time, a handful is normal."""
WORKER_LINGER_MS = 2000
"""How long an exiting worker waits for its last words to leave."""
# Plain numbers: arithmetic with pyzmq's enumerations costs as much as a small send.
_MORE, _NOW, _HAS_INPUT, _EVENTS = int(zmq.SNDMORE), int(zmq.DONTWAIT), int(zmq.POLLIN), int(zmq.EVENTS)
_PLAIN = zmq.backend.Socket
"""pyzmq's compiled calls, without the layer in Python above them."""
WORKER_SEND_MS = 30_000
"""How long a worker waits for a front end that reads nothing. Streams fill the pipe within a moment of its silence."""

Payloads = Sequence[bytes]
Handler = Callable[[bytes, FromWorker, Payloads], None]
Intruder = Callable[[bytes, ProtocolError], None]


class PeerGone(PodiumError):  # noqa: N818
    """No worker of that identity is connected: it is dead, or has not said hello."""


class NoCredit(PodiumError):  # noqa: N818
    """The pipe to that worker is full."""


class Broker:
    """The front end's socket. All calls from the event loop's thread."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", socket: "zmq.Socket[bytes]", path_fd: int) -> None:
        """Takes over `path_fd`, an O_PATH descriptor of the bound socket; use `open`."""
        self.endpoint = f"ipc:///proc/{os.getpid()}/fd/{path_fd}"
        """Where workers connect: it works for processes that may look into this one, and ends with it."""
        self._path_fd = path_fd
        self._context = context
        self._socket = socket
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[bytes, tuple[Handler, Intruder]] = {}
        """peer → who gets its messages; others' messages are dropped."""
        self._pending: asyncio.Handle | None = None
        self._is_draining = False
        self.dropped = 0
        """Messages of peers that nobody had registered: late words of the dead."""

    @classmethod
    def open(cls, run_dir: Path) -> Self:
        """Starts to read. Needs a running event loop.

        The socket is bound in `run_dir`, made private (0700), and its name is removed at once, so that no end of this
        process, a SIGKILL least of all, leaves a file behind; connections go through /proc. Raises OSError, ValueError.
        """
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_dir.chmod(0o700)
        path = run_dir / f"control-{os.getpid()}.sock"
        if len(str(path)) > zmq.IPC_PATH_MAX_LEN:
            raise ValueError(f"{path} is too long for a socket; use a run directory with a shorter path")
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MESSAGES)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_INLINE_BYTES)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        socket.bind(f"ipc://{path}")
        path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        path.unlink()
        broker = cls(context, socket, path_fd)
        broker._loop.add_reader(broker._fd, broker._drain)
        broker._recheck()
        return broker

    def register(self, peer: bytes, handler: Handler, intruder: Intruder) -> None:
        """From now on `handler` gets the peer's messages, `intruder` learns of those that cannot be read."""
        self._handlers[peer] = (handler, intruder)

    def unregister(self, peer: bytes) -> None:
        """Messages of that peer are dropped from now on."""
        self._handlers.pop(peer, None)

    def send(self, peer: bytes, message: ToWorker, payloads: Payloads = ()) -> None:
        """Never blocks. Raises PeerGone, or NoCredit where the pipe is full."""
        try:
            _send(self._socket, (peer, encode(message), *payloads), _NOW)
        except zmq.Again as error:
            raise NoCredit(f"the pipe to {peer!r} is full") from error
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise PeerGone(f"{peer!r} is not connected") from error
            raise
        finally:
            self._recheck()

    def close(self) -> None:
        """Stops reading and closes the socket."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._fd)
        if self._pending is not None:
            self._pending.cancel()
        self._socket.close(0)
        self._context.term()
        os.close(self._path_fd)

    def _recheck(self) -> None:
        """Not while messages are read: whoever reads looks again after each."""
        if self._pending is None and not self._is_draining and _has_message(self._socket):
            self._pending = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        socket, is_empty = self._socket, False
        self._is_draining = True
        try:
            for _ in range(MESSAGES_PER_WAKE_UP):
                self._deliver(_receive(socket, _NOW))
                if socket.closed:
                    return
                if not _has_message(socket):
                    is_empty = True
                    return
        except zmq.Again:
            pass
        finally:  # also where a handler raised: without it, what is left would wait for the next message
            self._is_draining = False
            if not (is_empty or socket.closed):
                self._recheck()

    def _deliver(self, frames: list[bytes]) -> None:
        peer = frames[0]
        target = self._handlers.get(peer)
        if target is None or len(frames) < 2:
            self.dropped += 1
            return
        handler, intruder = target
        try:
            message = decode_from_worker(frames[1])
        except ProtocolError as error:
            intruder(peer, error)
            return
        handler(peer, message, frames[2:])


class WorkerChannel:
    """A worker's socket. Blocking, used by one thread."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", socket: "zmq.Socket[bytes]", parent_fd: int) -> None:
        """Use `connect`."""
        self._context = context
        self._socket = socket
        self.fd = int(socket.getsockopt(zmq.FD))
        """Becomes readable, once, when something may have come: ask `has_message` after every send and receive."""
        self.parent_fd = parent_fd
        """Readable when the front end has ended."""
        self._watched = [(socket, _HAS_INPUT), (parent_fd, _HAS_INPUT)]

    @classmethod
    def connect(cls, endpoint: str, peer: bytes, parent_fd: int) -> Self:
        """`parent_fd`: a pidfd of the front end, whose end interrupts every wait."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, peer)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, WORKER_LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MESSAGES)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MESSAGES)
        socket.setsockopt(zmq.SNDTIMEO, WORKER_SEND_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, max(MAX_INLINE_BYTES, MAX_HEADER_BYTES))
        socket.connect(endpoint)
        return cls(context, socket, parent_fd)

    def send(self, message: FromWorker, payloads: Payloads = ()) -> None:
        """Raises ProtocolError where the front end does not take it in time."""
        try:
            _send(self._socket, (encode(message), *payloads), 0)
        except zmq.Again as error:
            raise ProtocolError("the front end takes no messages") from error

    def receive(self, timeout_s: float | None = None) -> tuple[ToWorker, Payloads] | None:
        """The next message, or None after `timeout_s` or when the front end is gone. Raises ProtocolError."""
        if timeout_s == 0:
            if not _has_message(self._socket):
                return None
        elif not self._wait(-1 if timeout_s is None else round(timeout_s * 1000)):
            return None
        frames = _receive(self._socket, 0)
        return decode_to_worker(frames[0]), frames[1:]

    def has_message(self) -> bool:
        """Whether `receive` would give one at once."""
        return _has_message(self._socket)

    def _wait(self, timeout_ms: int) -> bool:
        """Whether a message came, not the front end's end alone nor the end of the time."""
        seen = zmq.zmq_poll(self._watched, timeout_ms)  # type: ignore[arg-type]  # it takes descriptors, too
        return bool(seen) and seen[0][0] is self._socket

    def close(self) -> None:
        """Waits up to two seconds for what was sent to leave."""
        self._socket.close()
        self._context.term()


def _send(socket: "zmq.Socket[bytes]", frames: Sequence[bytes], flags: int) -> None:
    """One message, copied. Past pyzmq's checks of each frame and its keywords: half the time of `send_multipart`."""
    send = _PLAIN.send
    for frame in frames[:-1]:
        send(socket, frame, _MORE | flags)
    send(socket, frames[-1], flags)


def _receive(socket: "zmq.Socket[bytes]", flags: int) -> list[bytes]:
    """The frames of one message. Raises zmq.Again. A frame says itself whether another one follows."""
    receive = _PLAIN.recv
    frame = receive(socket, flags, False)
    frames = [frame.bytes]
    while frame.more:
        frame = receive(socket, flags, False)
        frames.append(frame.bytes)
    return frames


def _has_message(socket: "zmq.Socket[bytes]") -> bool:
    return bool(int(_PLAIN.get(socket, _EVENTS)) & _HAS_INPUT)
