"""Notices a client that leaves while its request is being worked on."""

import asyncio
from types import TracebackType
from typing import Self

from podium.http.transport.asgi import Receive
from podium.http.transport.errors import ClientGoneError

WATCH_AFTER_S = 0.05
"""A request that takes longer is watched for its client's leaving; a shorter one is not worth the task."""


class DisconnectWatch:
    """After a while, waits for the client's leaving, and cancels the request that created it.

    As a context manager: what that cancels within it ends in ClientGoneError. Only for after the body has been read:
    both take from the same `receive`.
    """

    def __init__(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self._client_left = False
        self._receive = receive
        self._request = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._timer = loop.call_later(WATCH_AFTER_S, self._begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        if isinstance(error, asyncio.CancelledError) and self._client_left and self._was_only_reason():
            raise ClientGoneError("the client closed the connection") from None

    def _was_only_reason(self) -> bool:
        """Takes the cancellation for the client's leaving back; True where there was no other."""
        return self._request is not None and self._request.uncancel() == 0

    def _stop(self) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":  # noqa: ASYNC110 - ASGI has no event
            await asyncio.sleep(WATCH_AFTER_S)
        self._client_left = True
        if self._request is not None:
            self._request.cancel()
