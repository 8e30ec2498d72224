"""A worker's end of the wire in a process of its own: says hello, then echoes the batch of every Grant as a Failure."""

import os
import sys

from podium.ipc.channel import WorkerChannel
from podium.ipc.protocol import Failure, Grant, Hello


def main(endpoint: str, peer: str, parent: int) -> None:
    """Ends with the first message that is no Grant."""
    channel = WorkerChannel.connect(endpoint, peer.encode(), os.pidfd_open(parent))
    channel.send(Hello(1, b"t", os.getpid()))
    while (received := channel.receive(60)) is not None:
        message, payloads = received
        if not isinstance(message, Grant):
            break
        channel.send(Failure(1, message.batch, "m"), payloads)
    channel.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
