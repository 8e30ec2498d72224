"""Calls an ASGI application in this process and yields its response piece by piece: no socket, no HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

PENDING_PIECES = 16
"""Pieces of a response that may wait for their reader; then the application waits."""
LEAVE_TIMEOUT_S = 5.0
"""How long the application may take to notice that its client has left; then its task is cancelled."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and type of a response, before its first byte."""

    status: int
    content_type: str


class Exchange:
    """One POST of JSON. The application runs in a task of its own; leaving early looks to it like a lost connection."""

    def __init__(self, app: App, path: str, body: bytes) -> None:
        self._app = app
        self._scope = _scope(path, len(body))
        self._body: bytes | None = body
        self._left = asyncio.Event()
        self._parts: asyncio.Queue[Head | bytes | None] = asyncio.Queue(PENDING_PIECES)

    async def parts(self) -> AsyncIterator[Head | bytes]:
        """The head, then the body as it is written. Raises what the application does. Closing it leaves. Call once."""
        task = asyncio.create_task(self._run(), name=f"exchange {self._scope['path']}")
        try:
            while (part := await self._parts.get()) is not None:
                yield part
            await task
        finally:
            await self._leave(task)

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        finally:
            if not self._left.is_set():
                await self._parts.put(None)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._left.is_set():
            return
        if message["type"] == "http.response.start":
            headers = {bytes(name).lower(): bytes(value) for name, value in message.get("headers", ())}
            kind = headers.get(b"content-type", b"application/json").decode("latin-1")
            await self._parts.put(Head(int(message["status"]), kind))
        elif message["type"] == "http.response.body" and message.get("body"):
            await self._parts.put(bytes(message["body"]))

    async def _leave(self, task: "asyncio.Task[None]") -> None:
        self._left.set()
        while not self._parts.empty():  # who waits to write must see that nobody reads
            self._parts.get_nowait()
        if not task.done():
            await asyncio.wait((task,), timeout=LEAVE_TIMEOUT_S)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=LEAVE_TIMEOUT_S)
        if task.done() and not task.cancelled():
            task.exception()  # read, so that nobody logs it as never retrieved


def _scope(path: str, length: int) -> Message:
    return {
        "type": "http",
        # An application of this version listens for the disconnect; a later one would wait for `send` to raise.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(length).encode())],
        "client": None,
        "server": ("podium", 80),
        "state": {},
    }
