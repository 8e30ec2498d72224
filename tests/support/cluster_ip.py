"""Balances connections, not requests, as a ClusterIP does: whoever connects gets the pod that is behind it then."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class ClusterIP:
    """A port on loopback; `target` is the pod's. A change is for new connections alone."""

    def __init__(self, target: int, first_bytes: int | None = None) -> None:
        """`first_bytes`: what of each connection reaches the pod before `let_all_through`; None: all of it."""
        self.target = target
        self._first_bytes = first_bytes
        self._all_through = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.connections: list[int] = []
        """The target of each connection that came in."""
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._forwards: set[asyncio.Task[None]] = set()

    async def serve(self, up: threading.Event, ended: asyncio.Event) -> None:
        """Until it is ended; `port` is known when it is up."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._taken, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        up.set()
        await ended.wait()
        self._all_through.set()
        server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._forwards)

    def let_all_through(self) -> None:
        """What was kept back goes on to the pod. From any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._all_through.set)

    def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(self.target)
        task = asyncio.create_task(self._forward(reader, writer))
        self._forwards.add(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            pod_reader, pod_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self._writers.add(pod_writer)
        await asyncio.gather(self._to_pod(reader, pod_writer), _pipe(pod_reader, writer))

    async def _to_pod(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._first_bytes or 0
        with contextlib.suppress(OSError):
            while left and (data := await reader.read(min(left, 1 << 16))):
                writer.write(data)
                await writer.drain()
                left -= len(data)
        if self._first_bytes is not None:
            await self._all_through.wait()
        await _pipe(reader, writer)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def cluster_ip(target: int, first_bytes: int | None = None) -> Iterator[ClusterIP]:
    """In a thread of its own."""
    made, up, loop = ClusterIP(target, first_bytes), threading.Event(), asyncio.new_event_loop()
    ended = asyncio.Event()

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(made.serve(up, ended))

    thread = threading.Thread(target=run)
    thread.start()
    assert up.wait(10)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
