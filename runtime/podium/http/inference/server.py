"""A uvicorn server that leaves signals and the order of the drain to us."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from podium.http.inference.connection import ExpressProtocol
from podium.http.inference.express import ExpressLane
from podium.http.transport.asgi import App
from podium.http.transport.protocol import BoundedProtocol

BACKLOG = 2048
KEEP_ALIVE_S = 120
"""Idle connections stay open longer than callers keep them: closing first would race with their next request."""
START_TIMEOUT_S = 30.0
SETTLE_S = 1.0
"""How long connections are left open after the listener has closed, for requests that are on their way."""
TICK_S = 0.01
TICKS_BETWEEN_SWEEPS = 10
"""uvicorn ticks ten times a second."""


class QuietServer(uvicorn.Server):
    """Serves one application on one bound socket until `close`."""

    def __init__(self, app: App, listener: socket.socket, lane: ExpressLane | None = None) -> None:
        """`lane`: takes ordinary requests before the application is asked."""
        protocol: Any = BoundedProtocol if lane is None else partial(ExpressProtocol, lane)
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here asks for the client's address
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._listener = listener
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is really listened on."""
        return int(self._listener.getsockname()[1])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes no signals: drain.py decides when listeners close."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's tick: once a second, connections that do not get on are ended."""
        if counter % TICKS_BETWEEN_SWEEPS == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.expire(now)
        return await super().on_tick(counter)

    async def open(self) -> None:
        """Returns once connections are accepted."""
        self._serving = asyncio.create_task(self.serve(sockets=[self._listener]))
        async with asyncio.timeout(START_TIMEOUT_S):
            while not self.started:
                if self._serving.done():
                    self._serving.result()
                    raise RuntimeError("the HTTP server ended before it was up")
                await asyncio.sleep(TICK_S)

    async def close(self, grace_s: float) -> None:
        """Closes the listener, lets every connection have its answers, and closes idle ones last. Idempotent."""
        if self._serving is None:
            return
        self.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self.should_exit = True
        await self._serving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's end, with two things before it: whoever has connected is taken in, since the kernel resets what
        waits at a closed listener; and open connections get a moment to send what is on its way."""
        waiting = self._accept_all()
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)
        deadline = loop.time() + SETTLE_S
        while self.server_state.connections and loop.time() < deadline:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(TICK_S)
        await super().shutdown(sockets)

    def _accept_all(self) -> list[socket.socket]:
        """Connections that the kernel has completed and the loop has not yet seen."""
        found = []
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                found.append(connection)
        return found

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, not yet listening. Port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
