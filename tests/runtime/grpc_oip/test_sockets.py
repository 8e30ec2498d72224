"""What is known of the sockets of this process: real ones, of both families."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from podium.grpc_oip.sockets import Sockets


class Clock:
    """Stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def connected(listens_on: str, connects_to: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: the client's, and the one that was accepted."""
    family = socket.AF_INET6 if ":" in listens_on else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            socket.create_server((listens_on, 0), family=family, dualstack_ipv6=listens_on == "::")
        )
        port = listener.getsockname()[1]
        client = stack.enter_context(socket.create_connection((connects_to, port), timeout=20))
        accepted = stack.enter_context(listener.accept()[0])
        yield client, accepted


def peer_of(client: socket.socket) -> str:
    host, port = client.getsockname()[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


@pytest.mark.parametrize(
    ("listens_on", "connects_to"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")]
)
def test_what_came_over_a_connection_is_known_once_it_was_looked_for(listens_on: str, connects_to: str) -> None:
    sockets = Sockets(Clock())
    with connected(listens_on, connects_to) as (client, accepted):
        peer = peer_of(client)
        assert sockets.received(peer) is None
        assert sockets.look()
        assert sockets.received(peer) == 0
        client.sendall(bytes(1000))
        assert len(accepted.recv(1000, socket.MSG_WAITALL)) == 1000
        assert sockets.received(peer) == 1000
        client.sendall(bytes(1))
        assert accepted.recv(1) == b"\0", "the socket is as it was"
    assert sockets.received(peer) is None


def test_a_number_that_another_connection_got_is_not_taken_for_the_first_ones() -> None:
    sockets = Sockets(Clock())
    with connected("127.0.0.1", "127.0.0.1") as (client, accepted):
        peer, number = peer_of(client), accepted.fileno()
        assert sockets.look()
        with connected("127.0.0.1", "127.0.0.1") as (_, other):
            os.dup2(other.fileno(), number)
            assert sockets.received(peer) is None


def test_looking_takes_a_small_part_of_the_time() -> None:
    clock = Clock()

    class Slow(Clock):
        def __call__(self) -> float:
            self.now += 1.0
            return self.now

    clock = Slow()
    sockets = Sockets(clock)
    assert sockets.look()
    assert not sockets.look()
    clock.now += 30
    assert sockets.look()
