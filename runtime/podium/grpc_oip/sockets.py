"""What the kernel has received on gRPC's connections. gRPC owns their sockets and tells nobody how much has come.

Its sockets are found among the files of this process by their peer, and only ever asked.
"""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

FILES = Path("/proc/self/fd")
TCP_INFO_BYTES = 136
BYTES_RECEIVED_AT = 128
"""Of struct tcp_info: tcpi_bytes_received."""
SHARE_OF_TIME = 20
"""Looking through all files takes at most one part in so many of the event loop's time."""
MAPPED = "::ffff:"
"""Before an address of IPv4 that came in over a socket of IPv6."""


class Sockets:
    """The sockets of peers, as `context.peer()` names these."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._files: dict[str, int] = {}
        self._next_look = float("-inf")

    def received(self, peer: str) -> int | None:
        """Bytes that have come since the connection was opened; None where its socket is not known, or gone."""
        file = self._files.get(peer)
        if file is None:
            return None
        with contextlib.suppress(OSError), _borrowed(file) as found:
            if _peer(found) == peer:
                info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
                return int(struct.unpack_from("=Q", info, BYTES_RECEIVED_AT)[0])
        del self._files[peer]
        return None

    def look(self) -> bool:
        """Finds the sockets of all connections that are open now; whether it has looked: it does so now and then."""
        started = self._clock()
        if started < self._next_look:
            return False
        self._files = {peer: file for file in _files() if (peer := _peer_of(file)) is not None}
        ended = self._clock()
        self._next_look = ended + SHARE_OF_TIME * (ended - started)
        return True


def _files() -> list[int]:
    try:
        return [int(path.name) for path in FILES.iterdir()]
    except OSError:
        return []


def _peer_of(file: int) -> str | None:
    with contextlib.suppress(OSError), _borrowed(file) as found:
        return _peer(found)
    return None


def _peer(found: socket.socket) -> str | None:
    """As gRPC writes it. Raises OSError where the socket has none."""
    if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
        return None
    host, port = found.getpeername()[:2]
    if host.startswith(MAPPED):
        host = host.removeprefix(MAPPED)
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


@contextlib.contextmanager
def _borrowed(file: int) -> Iterator[socket.socket]:
    """The file as a socket, which stays open. Raises OSError where it is none."""
    found = socket.socket(fileno=file)
    try:
        yield found
    finally:
        found.detach()
