"""A TCP forwarder in front of a server, to take the server away from one client and give it back."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import yaml


class Gate:
    """Forwards from a free loopback port while open. Closing it breaks connections and refuses new ones."""

    def __init__(self, url: str) -> None:
        """`url`: the server's base address; its host and port are what counts."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._target = (parts.hostname, parts.port)
        self._server: asyncio.Server | None = None
        self._sides: set[_Side] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Listen, on the same port as before where it was open once."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Client(self._target, self._sides), "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Break everything that is open and stop to listen."""
        if self._server is not None:
            self._server.close()
            self._server = None
        sides = list(self._sides)
        for side in sides:
            side.abort()
        await asyncio.gather(*(side.lost for side in sides))

    def kubeconfig(self, original: Path, folder: Path) -> Path:
        """A kubeconfig like the original that goes through this gate."""
        found = yaml.safe_load(original.read_text())
        for cluster in found["clusters"]:
            cluster["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        path = folder / "gate.kubeconfig"
        path.write_text(yaml.safe_dump(found))
        return path


class _Side(asyncio.Protocol):
    """One end of a forwarded connection. What comes in goes out at `other`; losing one end loses both."""

    def __init__(self, sides: "set[_Side]") -> None:
        self._sides = sides
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._sides.add(self)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        assert self.other.transport is not None
        self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sides.discard(self)
        self.lost.set_result(None)
        if self.other is not None:
            self.other.abort()

    def abort(self) -> None:
        """Break the connection at once."""
        if self.transport is not None:
            self.transport.abort()


class _Client(_Side):
    """The end that came to the gate."""

    def __init__(self, target: tuple[str, int], sides: set[_Side]) -> None:
        super().__init__(sides)
        self._target = target
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        assert self.transport is not None
        server = _Side(self._sides)
        server.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, *self._target)
        except OSError:
            self.abort()
            return
        self.other = server
        if self.transport.is_closing():
            server.abort()
        else:
            self.transport.resume_reading()
