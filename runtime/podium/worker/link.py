"""A worker's end of the wire: messages of its own epoch, and the two ways its life ends in good order."""

from dataclasses import dataclass

from podium.errors import ProtocolError
from podium.ipc.channel import Payloads, PeerGone, WorkerChannel
from podium.ipc.protocol import FromWorker, ToWorker

EXIT_LOAD_FAILED = 1
EXIT_ORPHANED = 3
EXIT_PROTOCOL = 4
EXIT_ENGINE_BROKEN = 6


class Stopped(Exception):  # noqa: N818
    """Stop arrived, or the front end is gone. `status` is the process's exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Link:
    """The channel of one life of a worker. Used by one thread."""

    channel: WorkerChannel
    epoch: int

    def send(self, message: FromWorker, payloads: Payloads = ()) -> None:
        """Raises ProtocolError where the front end does not take it in time, Stopped where it is gone."""
        try:
            self.channel.send(message, payloads)
        except PeerGone:
            raise Stopped(EXIT_ORPHANED) from None

    def receive(self, timeout_s: float | None) -> tuple[ToWorker, Payloads]:
        """The next message. Raises Stopped after `timeout_s` or when the front end is gone, ProtocolError."""
        received = self.poll(timeout_s)
        if received is None:
            raise Stopped(EXIT_ORPHANED)
        return received

    def poll(self, timeout_s: float | None = 0.0) -> tuple[ToWorker, Payloads] | None:
        """The next message, or None after `timeout_s`. Raises Stopped when the front end is gone, ProtocolError."""
        try:
            received = self.channel.receive(timeout_s)
        except PeerGone:
            raise Stopped(EXIT_ORPHANED) from None
        if received is not None and received[0].epoch != self.epoch:
            raise ProtocolError(f"a message of epoch {received[0].epoch} for epoch {self.epoch}")
        return received
