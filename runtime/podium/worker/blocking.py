"""The loop of a worker that answers batches alone: one thread, blocking. The socket keeps what arrives meanwhile."""

from podium.engines.threads import set_intra_op_threads
from podium.errors import ProtocolError
from podium.ipc.channel import Payloads
from podium.ipc.journal import Journal
from podium.ipc.protocol import Cancel, Dispatch, Drain, Grant, Stop, Threads, ToWorker
from podium.worker.batches import Batches
from podium.worker.instance import Instance
from podium.worker.link import Link, Stopped


class BlockingLoop:
    """Answers one batch after the other."""

    def __init__(self, link: Link, journal: Journal, instance: Instance) -> None:
        self._link = link
        self._batches = Batches(link, journal, instance, self._note)

    def run(self) -> int:
        """Until Stop. Returns the exit status. Raises ProtocolError."""
        try:
            while True:
                self._note(*self._link.receive(None))
                while self._batches.waiting:
                    self._batches.run_next()
        except Stopped as stopped:
            return stopped.status

    def _note(self, message: ToWorker, payloads: Payloads) -> None:
        if isinstance(message, Dispatch):
            self._batches.take(message, payloads)
        elif isinstance(message, Stop):
            raise Stopped(0)
        elif isinstance(message, Cancel):
            self._batches.cancel(message.batch)
        elif isinstance(message, Threads):
            set_intra_op_threads(message.threads)
        elif not isinstance(message, (Drain, Grant)):
            raise ProtocolError(f"{type(message).__name__} for a worker that answers batches alone")
