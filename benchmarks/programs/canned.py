"""The floor below every server here: reads a request to its end, and writes fixed bytes. Nothing is parsed."""

import asyncio
import sys

import uvloop

ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(sys.argv[2].encode())
) + sys.argv[2].encode()
REQUEST_BYTES = int(sys.argv[3])
"""Length of a request's body: every request of a benchmark has the same."""


class Canned(asyncio.Protocol):
    """Answers whenever head and body have come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._came = b""

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        self._came += data
        head = self._came.find(b"\r\n\r\n")
        if self._came.startswith(b"GET") or (head >= 0 and len(self._came) >= head + 4 + REQUEST_BYTES):
            self._came = b""
            self._transport.write(ANSWER)


async def main() -> None:
    """Serves until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


uvloop.run(main())
