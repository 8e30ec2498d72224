"""What every HTTP client of the operator is: a session opened at first use, past any proxy, and bounded answers."""

from types import TracebackType
from typing import Self

import aiohttp


class Outgoing:
    """Use as an async context manager, or close it. One event loop."""

    def __init__(self, connections: int) -> None:
        """`connections`: the most at once."""
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # What is inside the cluster is never asked through a proxy, whatever the environment says.
            connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The body; None where it has more than `most` bytes, of which no more are read."""
    raw = await response.content.read(most + 1)
    while not response.content.at_eof() and len(raw) <= most:
        raw += await response.content.read(most + 1 - len(raw))
    return raw if len(raw) <= most else None
