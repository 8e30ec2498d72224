"""Whose turn it is to load: candidates take turns, so that what serves keeps most of the processors meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LoadTurns:
    """So many candidates load at once; who is to serve waits for none of them."""

    def __init__(self, processors: int) -> None:
        """Half of the processors go to loads, at least one."""
        self._places = asyncio.Semaphore(max(1, processors // 2))

    @asynccontextmanager
    async def taken(self, urgent: asyncio.Event) -> AsyncIterator[None]:
        """The block begins when a place is free, or at once when it is, or becomes, `urgent`."""
        if urgent.is_set():
            yield
            return
        place = asyncio.create_task(self._places.acquire())
        hurry = asyncio.create_task(urgent.wait())
        try:
            await asyncio.wait((place, hurry), return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            hurry.cancel()
            if place.done():
                self._places.release()
            else:
                place.cancel()
