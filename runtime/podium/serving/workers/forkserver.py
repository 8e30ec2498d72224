"""The front end's side of the fork server: starts it, asks it for workers, starts it again when it has died.

A worker belongs to the front end from its birth, so that a dead fork server harms none. Where it cannot be had, workers
are spawned: slower, and with the libraries in memory once per worker.
"""

import asyncio
import os
import random
import socket
from collections.abc import Sequence
from typing import Self

from podium.errors import PodiumError
from podium.serving.workers.begun import BegunServer
from podium.serving.workers.process import ChildProcess, described_exit, spawn_pid, thread_environment
from podium.telemetry.logging import get_logger
from podium_crds.assignment import EngineKind

log = get_logger(__name__)

CONTROL_FD = 3
IMPORT_TIMEOUT_S = 120.0
"""Importing torch from a cold disk takes tens of seconds."""
FORK_TIMEOUT_S = 10.0
MAX_BACKOFF_S = 60.0


class ForkServerUnavailable(PodiumError):  # noqa: N818
    """No fork server now; spawn the worker."""


class ForkLost(ForkServerUnavailable):
    """The fork server took the request and named no worker: there may be one, unnamed. See `process.end_strays`."""


class ForkServer:
    """One life of the fork server of one engine kind."""

    def __init__(self, kind: EngineKind, process: ChildProcess, control: socket.socket) -> None:
        """Use `start`."""
        self.kind = kind
        self.process = process
        self._control = control
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, kind: EngineKind, begun: BegunServer, process: ChildProcess) -> Self:
        """Tells a begun server its kind, unless it knows; returns when its libraries are imported.

        Raises ForkServerUnavailable.
        """
        server = cls(kind, process, begun.control)
        begun.control.setblocking(False)
        try:
            if begun.kind is None:
                await asyncio.get_running_loop().sock_sendall(begun.control, kind.value.encode() + b"\n")
            await server._answer(IMPORT_TIMEOUT_S)
        except OSError as error:
            await server.stop()
            raise ForkServerUnavailable(f"the fork server takes no kind: {error}") from error
        except BaseException:
            await server.stop()
            raise
        return server

    async def fork(self, fds: tuple[int, int, int]) -> ChildProcess:
        """A new worker with these descriptors (arena, bootstrap, journal). Raises ForkServerUnavailable or ForkLost."""
        async with self._turn:
            try:
                socket.send_fds(self._control, [b"f"], list(fds))
            except OSError as error:
                raise ForkServerUnavailable(f"the fork server takes no requests: {error}") from error
            try:
                pid = await self._answer(FORK_TIMEOUT_S)
            except ForkServerUnavailable as error:
                raise ForkLost(str(error)) from error
        return ChildProcess(pid)

    async def stop(self) -> None:
        """Ends it; workers stay."""
        self.process.kill()
        await self.process.exited
        async with self._turn:  # whoever waits for an answer has read the end of the stream by now
            self._control.close()

    async def _answer(self, timeout_s: float) -> int:
        loop = asyncio.get_running_loop()
        data = b""
        try:
            async with asyncio.timeout(timeout_s):
                while len(data) < 4:
                    chunk = await loop.sock_recv(self._control, 4 - len(data))
                    if not chunk:
                        status = await self.process.exited
                        raise ForkServerUnavailable(f"the fork server ended with {described_exit(status)}")
                    data += chunk
        except (TimeoutError, OSError) as error:
            self.process.kill()
            raise ForkServerUnavailable(f"the fork server does not answer: {error!r}") from error
        return int.from_bytes(data, "little")


def _begin() -> BegunServer:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        arguments = ("-m", "podium.worker.forkserver", str(os.getpid()))
        pid = spawn_pid(arguments, {CONTROL_FD: theirs.fileno()}, thread_environment(1))
    return BegunServer(pid, ours, None)


class ForkServers:
    """At most one fork server per engine kind, started at the first need and again, backed off, after a death."""

    def __init__(self, begun: Sequence[BegunServer] = ()) -> None:
        """`begun`: taken over, the one of a kind before one that waits to be told. Needs a running event loop."""
        self._begun = [(server, ChildProcess(server.pid)) for server in begun]
        self._starting: dict[EngineKind, asyncio.Task[ForkServer]] = {}
        self._failures: dict[EngineKind, int] = {}
        self._not_before: dict[EngineKind, float] = {}
        self.births = asyncio.Lock()
        """Held while a worker may exist that has no ChildProcess yet."""
        self._closing = False
        self._ending: set[asyncio.Task[None]] = set()

    async def fork(self, kind: EngineKind, fds: tuple[int, int, int]) -> ChildProcess:
        """A worker from the fork server of that kind. Raises ForkServerUnavailable, ForkLost."""
        server = await self._server(kind)
        try:
            async with self.births:
                return await server.fork(fds)
        except ForkServerUnavailable:
            self._forget(kind, server)
            raise

    def prepare(self, kind: EngineKind) -> None:
        """Has the libraries of that kind imported, unless they are or cannot be now. Does not wait."""
        if kind not in self._starting:
            self._begin(kind)

    def kinds(self) -> tuple[EngineKind, ...]:
        """Engine kinds that have, or are getting, a fork server."""
        return tuple(self._starting)

    def pid(self, kind: EngineKind) -> int | None:
        """Pid of the fork server of that kind, None where none is up."""
        task = self._starting.get(kind)
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result().process.pid

    async def close(self) -> None:
        """Ends all of them."""
        self._closing = True
        for task in list(self._starting.values()):
            if not task.done():
                task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, ForkServer):
                await result.stop()
        self._starting.clear()
        for begun, process in self._begun:
            process.kill()
            await process.exited
            begun.control.close()
        self._begun.clear()
        await asyncio.gather(*self._ending)

    async def _server(self, kind: EngineKind) -> ForkServer:
        task = self._starting.get(kind) or self._begin(kind)
        if task is None:
            raise ForkServerUnavailable("the fork server failed a moment ago")
        try:
            return await asyncio.shield(task)
        except ForkServerUnavailable as error:
            if self._starting.get(kind) is task:
                log.warning("fork_server_unavailable", engine=kind.value, message=str(error))
                self._forget(kind, None)
            raise

    def _begin(self, kind: EngineKind) -> asyncio.Task[ForkServer] | None:
        """Starts one; None while closing, or too soon after a failure."""
        if self._closing or asyncio.get_running_loop().time() < self._not_before.get(kind, 0.0):
            return None
        task = asyncio.create_task(self._start(kind), name=f"fork-server-{kind.value}")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a failure is met by the next fork
        self._starting[kind] = task
        return task

    async def _start(self, kind: EngineKind) -> ForkServer:
        server = await ForkServer.start(kind, *self._take(kind))
        server.process.exited.add_done_callback(lambda _: self._forget(kind, server))
        log.info("fork_server_started", engine=kind.value, pid=server.process.pid)
        return server

    def _take(self, kind: EngineKind) -> tuple[BegunServer, ChildProcess]:
        """A server that was begun early, as long as there are any; else a new process."""
        for wanted in (kind.value, None):
            for pair in self._begun:
                if pair[0].kind == wanted and pair[1].alive:
                    self._begun.remove(pair)
                    return pair
        begun = _begin()
        return begun, ChildProcess(begun.pid)

    def _forget(self, kind: EngineKind, server: ForkServer | None) -> None:
        """Drops a fork server that is of no use, and allows the next one after a while."""
        task = self._starting.get(kind)
        if task is None or self._closing:
            return
        if server is not None and not (task.done() and not task.cancelled() and task.exception() is None):
            return
        if server is not None and task.result() is not server:
            return
        del self._starting[kind]
        failures = self._failures[kind] = self._failures.get(kind, 0) + 1
        delay = 0.0 if failures == 1 else min(MAX_BACKOFF_S, 0.5 * 2**failures) * random.uniform(0.5, 1)  # noqa: S311
        self._not_before[kind] = asyncio.get_running_loop().time() + delay
        if server is not None:
            ending = asyncio.create_task(server.stop(), name=f"end-fork-server-{kind.value}")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            log.warning("fork_server_lost", engine=kind.value, pid=server.process.pid, retry_in_s=round(delay, 3))
