"""The control plane: a socket of packets (AF_UNIX, SOCK_SEQPACKET) between the front end and each worker.

A packet arrives whole or not at all, in order, and is in the kernel when `send` returns: what a worker said before it
died is read after its death. Messages are small and bounded; a full pipe is an error to act on. Both ends are plain
descriptors, readable as long as anything waits, without a thread between them (docs/decisions/0012).
"""

import asyncio
import contextlib
import errno
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

from podium.errors import PodiumError, ProtocolError
from podium.ipc.packets import MAX_MESSAGE_BYTES, MAX_PACKET_BYTES, Assembly, Payloads, packets
from podium.ipc.protocol import FromWorker, ToWorker, decode_from_worker, decode_to_worker, encode
from podium.telemetry.logging import get_logger

__all__ = ["Broker", "NoCredit", "Payloads", "PeerGone", "WorkerChannel"]

log = get_logger(__name__)

MESSAGES_PER_WAKE_UP = 64
"""Then a worker's event loop gets its turn."""
HIGH_WATER_MESSAGES = 64
"""Messages for one worker that may wait for room in its socket; with one batch at a time, none does."""
HIGH_WATER_BYTES = 2 * MAX_MESSAGE_BYTES
"""Of those messages: as much as the batches in a worker's hands take where the arena has no room for them."""
SOCKET_BYTES = 512 << 10
"""Of packets on their way, asked for in each direction; the kernel may grant less."""
MAX_CONNECTIONS = 1024
MAX_PEER_BYTES = 255
BACKLOG = 128
WORKER_SEND_S = 30
ACCEPT_PAUSE_S = 1.0
"""Before another look at who wants to connect, once there were no descriptors for it."""
_OUT_OF_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""How long a worker waits for a front end that reads nothing. Streams fill the pipe within a moment of its silence."""
MAX_PATH_BYTES = 107
"""Of a socket's name."""
_READ_BYTES = MAX_PACKET_BYTES + 1
"""So that a packet which is too large shows."""

Handler = Callable[[bytes, FromWorker, Payloads], None]
Intruder = Callable[[bytes, ProtocolError], None]


class PeerGone(PodiumError):  # noqa: N818
    """No worker of that identity is connected: it is dead, or has not said hello."""


class NoCredit(PodiumError):  # noqa: N818
    """The pipe to that worker is full."""


class _Connection:
    """One worker's socket, and what waits for room in it."""

    __slots__ = ("assembly", "fd", "peer", "socket", "unsent", "unsent_bytes")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.fd = accepted.fileno()
        self.peer: bytes | None = None
        """None until its first packet, which is its identity."""
        self.assembly = Assembly()
        self.unsent: deque[list[bytes]] = deque()
        """Packets of each message that was taken and is not sent yet, the first one's rest included."""
        self.unsent_bytes = 0


class Broker:
    """The front end's sockets. All calls from the event loop's thread."""

    def __init__(self, listener: socket.socket, path_fd: int) -> None:
        """Takes over `path_fd`, an O_PATH descriptor of the listening socket; use `open`."""
        self.endpoint = f"/proc/{os.getpid()}/fd/{path_fd}"
        """Where workers connect: it works for processes that may look into this one, and ends with it."""
        self._path_fd = path_fd
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[bytes, tuple[Handler, Intruder]] = {}
        """peer → who gets its messages; others' messages are dropped."""
        self._connections: dict[int, _Connection] = {}
        self._by_peer: dict[bytes, _Connection] = {}
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
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise ValueError(f"{path} is too long for a socket; use a run directory with a shorter path")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.setblocking(False)
            listener.bind(os.fsencode(path))
            listener.listen(BACKLOG)
            path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except BaseException:
            listener.close()
            raise
        path.unlink()
        broker = cls(listener, path_fd)
        broker._listen()
        return broker

    def register(self, peer: bytes, handler: Handler, intruder: Intruder) -> None:
        """From now on `handler` gets the peer's messages, `intruder` learns of those that cannot be read."""
        self._handlers[peer] = (handler, intruder)

    def unregister(self, peer: bytes) -> None:
        """Messages of that peer are dropped from now on."""
        self._handlers.pop(peer, None)

    def send(self, peer: bytes, message: ToWorker, payloads: Payloads = ()) -> None:
        """Never blocks: what finds no room in the socket waits for it, up to a bound. Raises PeerGone, NoCredit."""
        connection = self._by_peer.get(peer)
        if connection is None:
            raise PeerGone(f"{peer!r} is not connected")
        waiting = packets(encode(message), payloads)
        if not connection.unsent and len(waiting) == 1:
            try:
                connection.socket.send(waiting[0])
                return
            except BlockingIOError:
                pass
            except OSError as error:
                raise PeerGone(f"{peer!r} is not connected") from error
        nbytes = sum([len(packet) for packet in waiting])
        if len(connection.unsent) >= HIGH_WATER_MESSAGES or connection.unsent_bytes + nbytes > HIGH_WATER_BYTES:
            raise NoCredit(f"the pipe to {peer!r} is full")
        connection.unsent.append(waiting)
        connection.unsent_bytes += nbytes
        if len(connection.unsent) == 1:
            self._loop.add_writer(connection.fd, self._flush, connection)

    def close(self) -> None:
        """Stops reading and closes the sockets. Idempotent."""
        if self._listener.fileno() < 0:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for connection in tuple(self._connections.values()):
            self._drop(connection)
        os.close(self._path_fd)

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError as error:
            log.warning("worker_not_accepted", error=error)
            if error.errno in _OUT_OF_ROOM:  # the listener stays readable: asking at once again would never end
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(ACCEPT_PAUSE_S, self._listen)
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("too_many_connections", connections=len(self._connections))
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        connection = self._connections[accepted.fileno()] = _Connection(accepted)
        self._loop.add_reader(connection.fd, self._read, connection)

    def _read(self, connection: _Connection) -> None:
        """One packet: as long as there are more, the loop comes back, and others have their turn between."""
        try:
            packet = connection.socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet = b""
        if not packet:
            self._drop(connection)
            return
        peer = connection.peer
        if peer is None:
            self._name(connection, packet)
            return
        target = self._handlers.get(peer)
        try:
            received = connection.assembly.take(packet)
            if received is None:
                return
            if target is None:
                self.dropped += 1
                return
            message = decode_from_worker(received[0])
        except ProtocolError as error:
            if target is not None:
                target[1](peer, error)
            return
        target[0](peer, message, received[1])

    def _name(self, connection: _Connection, peer: bytes) -> None:
        """The first packet of a connection says whose it is."""
        if len(peer) > MAX_PEER_BYTES or peer in self._by_peer:
            log.warning("worker_refused", peer=repr(peer[:MAX_PEER_BYTES]))
            self._drop(connection)
            return
        connection.peer = peer
        self._by_peer[peer] = connection

    def _flush(self, connection: _Connection) -> None:
        """There is room in the socket."""
        unsent = connection.unsent
        try:
            while unsent:
                waiting = unsent[0]
                connection.unsent_bytes -= connection.socket.send(waiting[0])
                del waiting[0]
                if not waiting:
                    unsent.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            unsent.clear()  # the reader sees the end, too
        self._loop.remove_writer(connection.fd)

    def _drop(self, connection: _Connection) -> None:
        self._loop.remove_reader(connection.fd)
        if connection.unsent:
            self._loop.remove_writer(connection.fd)
            connection.unsent.clear()
        del self._connections[connection.fd]
        if connection.peer is not None:
            del self._by_peer[connection.peer]
        connection.socket.close()


class WorkerChannel:
    """A worker's socket. Blocking, used by one thread."""

    def __init__(self, connected: socket.socket, parent_fd: int) -> None:
        """Use `connect`."""
        self._socket = connected
        self._assembly = Assembly()
        self._poll = select.poll()
        self._poll.register(connected.fileno(), select.POLLIN)
        self.fd = connected.fileno()
        """Readable as long as something has come that was not received, and when the front end is gone."""
        self.parent_fd = parent_fd
        """Readable when the front end has ended."""

    @classmethod
    def connect(cls, endpoint: str, peer: bytes, parent_fd: int) -> Self:
        """`parent_fd`: a pidfd of the front end. Raises OSError where it is gone."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", WORKER_SEND_S, 0))
            connected.connect(endpoint)
            connected.send(peer)
        except BaseException:
            connected.close()
            raise
        return cls(connected, parent_fd)

    def send(self, message: FromWorker, payloads: Payloads = ()) -> None:
        """Raises ProtocolError where the front end does not take it in time, PeerGone where it is gone."""
        try:
            for packet in packets(encode(message), payloads):
                self._socket.send(packet)
        except BlockingIOError as error:
            raise ProtocolError("the front end takes no messages") from error
        except OSError as error:
            raise PeerGone("the front end is gone") from error

    def receive(self, timeout_s: float | None = None) -> tuple[ToWorker, Payloads] | None:
        """The next message, or None after `timeout_s`. Raises PeerGone when the front end is gone, ProtocolError."""
        flags = socket.MSG_DONTWAIT if timeout_s == 0 else 0
        while True:
            if timeout_s and not self._poll.poll(round(timeout_s * 1000)):
                return None
            try:
                packet = self._socket.recv(_READ_BYTES, flags)
            except BlockingIOError:
                return None
            except OSError as error:
                raise PeerGone("the front end is gone") from error
            if not packet:
                raise PeerGone("the front end is gone")
            received = self._assembly.take(packet)
            if received is not None:
                return decode_to_worker(received[0]), received[1]

    def close(self) -> None:
        """What was sent stays to be read."""
        self._socket.close()
