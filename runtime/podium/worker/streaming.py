"""The loop of a worker whose engine streams: an event loop on the one thread, which steps sync generators, runs batches
between their steps, and leaves the rest of its time to async ones."""

import asyncio
import sys

from podium.engines.base import AsyncEngine, Measured, StreamingEngine
from podium.engines.threads import set_intra_op_threads
from podium.errors import ProtocolError
from podium.ipc.channel import MESSAGES_PER_WAKE_UP, Payloads
from podium.ipc.journal import Journal
from podium.ipc.protocol import (
    Cancel,
    CloseStream,
    Dispatch,
    Drain,
    Grant,
    OpenStream,
    Stats,
    Stop,
    StreamCredit,
    Threads,
    ToWorker,
)
from podium.ipc.view import ArenaView
from podium.worker.batches import Batches
from podium.worker.chunks import Declared
from podium.worker.instance import Instance
from podium.worker.link import EXIT_ENGINE_BROKEN, EXIT_ORPHANED, Link, Stopped
from podium.worker.streams import Streams

TURN_S = 0.001
"""How long sync generators are stepped before the socket is looked at, and what they gave is sent."""


STATS_INTERVAL_S = 0.5
"""How old the measures of an engine may be."""


class StreamingLoop:
    """Runs until Stop. Make it inside the running event loop."""

    def __init__(self, link: Link, view: ArenaView, engine: StreamingEngine | AsyncEngine, declared: Declared) -> None:
        self._link = link
        self._engine = engine
        self._streams = Streams(link, view, engine, declared, self._wake)
        self._batches: Batches | None = None
        self._loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = self._loop.create_future()
        self._turn_is_due = False

    def answer_batches(self, journal: Journal, instance: Instance) -> None:
        """Batches are answered, too, between the steps of streams."""
        self._batches = Batches(self._link, journal, instance, self._note)

    async def run(self) -> int:
        """Returns the exit status; all streams are closed then. Raises ProtocolError."""
        self._loop.add_reader(self._link.channel.fd, self._wake)
        self._loop.add_reader(self._link.channel.parent_fd, self._finish, EXIT_ORPHANED)
        watch = self._loop.create_task(self._watch_engine())
        report = self._loop.create_task(self._report_stats())
        self._wake()
        try:
            return await self._status
        finally:
            watch.cancel()
            report.cancel()
            self._loop.remove_reader(self._link.channel.fd)
            self._loop.remove_reader(self._link.channel.parent_fd)
            await self._streams.close_all()

    async def _watch_engine(self) -> None:
        if isinstance(self._engine, AsyncEngine):
            why = await self._engine.until_broken()
            print(f"podium worker: the engine is broken: {why}", file=sys.stderr)
            self._finish(EXIT_ENGINE_BROKEN)

    async def _report_stats(self) -> None:
        """Has the front end know what the engine measures, while it changes."""
        if not isinstance(self._engine, Measured):
            return
        told = None
        while not self._status.done():
            if (stats := self._engine.stats()) != told:
                told = stats
                self._link.send(Stats(self._link.epoch, stats))
            await asyncio.sleep(STATS_INTERVAL_S)

    def _wake(self) -> None:
        """A turn follows after what the loop has ready now, so that tasks woken together share one message."""
        if not self._turn_is_due and not self._status.done():
            self._turn_is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._status.done():
            return
        try:
            self._read()
            if self._batches is not None and self._batches.waiting:
                self._batches.run_next()  # one: the next one may be there already, and streams wait for their step
            self._streams.step(TURN_S)
            self._streams.flush()
        except Stopped as stopped:
            self._finish(stopped.status)
        except ProtocolError as error:
            self._status.set_exception(error)
        self._turn_is_due = False
        if self._has_work():
            self._wake()

    def _has_work(self) -> bool:
        return self._streams.runnable or (self._batches is not None and self._batches.waiting)

    def _read(self) -> None:
        for _ in range(MESSAGES_PER_WAKE_UP):
            received = self._link.poll()
            if received is None:
                return
            self._note(*received)

    def _note(self, message: ToWorker, payloads: Payloads) -> None:
        if isinstance(message, Stop):
            raise Stopped(0)
        if isinstance(message, OpenStream):
            self._streams.open(message, payloads)
        elif isinstance(message, StreamCredit):
            self._streams.credit(message)
        elif isinstance(message, CloseStream):
            self._streams.close(message.stream)
        elif isinstance(message, Dispatch):
            if self._batches is None:
                raise ProtocolError("a batch for a worker that answers streams alone")
            self._batches.take(message, payloads)
        elif isinstance(message, Cancel):
            if self._batches is not None:
                self._batches.cancel(message.batch)
        elif isinstance(message, Threads):
            set_intra_op_threads(message.threads)
        elif not isinstance(message, (Drain, Grant)):
            raise ProtocolError(f"a worker that streams does not know {type(message).__name__}")

    def _finish(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)
