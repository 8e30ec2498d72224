"""Which watches are connected, which have just listed anew, and which have fallen silent. A leaf.

A watch that lists anew replays what exists and says nothing of what was deleted meanwhile, so whoever keeps a cache
must compare it with a listing of its own.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Stream:
    kind: str
    began_at: float
    listed: bool = False
    connected: bool = False


class Liveness:
    """Fed with the requests of the watch runtime, path by path. Belongs to one event loop."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        """`kinds`: path of a watched collection → its kind."""
        now = asyncio.get_running_loop().time()
        self._streams = {path: _Stream(kind, now) for path, kind in kinds.items()}
        self._relisted: set[str] = set()
        self._changed = asyncio.Event()

    def begins(self, path: str) -> None:
        """A list or watch of that collection begins; other paths are ignored."""
        stream = self._streams.get(path)
        if stream is not None:
            stream.began_at = asyncio.get_running_loop().time()

    def answered(self, path: str, *, watch: bool) -> None:
        """The server granted a list or watch of that collection."""
        stream = self._streams.get(path)
        if stream is None:
            return
        if not watch:
            stream.listed, stream.connected = True, False
            return
        stream.connected = True
        if stream.listed:
            stream.listed = False
            self._relisted.add(stream.kind)
            self._changed.set()

    async def relisted(self) -> frozenset[str]:
        """Wait until watches go on after a listing; the kinds of all that have since the last call."""
        while not self._relisted:
            self._changed.clear()
            await self._changed.wait()
        found = frozenset(self._relisted)
        self._relisted.clear()
        return found

    @property
    def connected(self) -> bool:
        """Whether every watch has been granted since it last listed."""
        return all(stream.connected for stream in self._streams.values())

    def silent(self, longer_than_s: float) -> frozenset[str]:
        """Kinds whose watch has not begun any request for so long: it is stuck."""
        oldest = asyncio.get_running_loop().time() - longer_than_s
        return frozenset(stream.kind for stream in self._streams.values() if stream.began_at < oldest)
