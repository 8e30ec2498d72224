"""The artifacts of one pod: fetched once, checked by digest, handed out as folders.

What blocks runs in a small pool of niced threads, so that a fetch does not disturb serving.
"""

import asyncio
import os
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from podium.artifacts.entries import Fetched, remove_abandoned, trim
from podium.artifacts.errors import ArtifactDigestMismatchError, ArtifactUnavailableError, FetchCancelledError
from podium.artifacts.fetching import Fetch, Limits, ProgressCallback
from podium_crds.assignment import Artifact

FETCH_THREADS = 4
FETCH_NICENESS = 10


class ArtifactStore:
    """Fetches and keeps artifacts below `root`. Call `open` once before the first fetch and `close` at the end."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._pool = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch", initializer=_be_nice)
        self._in_progress: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def open(self) -> None:
        """Creates the root and removes what an earlier process left half-done. Blocking."""
        self._root.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self._root)

    def close(self) -> None:
        """Gives up the threads; fetches under way must have been cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def trim(self, in_use: Collection[str]) -> None:
        """Removes artifacts that are not `in_use` (digests), least recently used first, down to the cache's limit."""
        if self._limits.cache_bytes is not None:
            work = partial(trim, self._root, self._limits.cache_bytes, frozenset(in_use))
            await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def fetch(self, artifact: Artifact, progress: ProgressCallback) -> Fetched:
        """The artifact's folder and digest. A pinned digest that is in the cache is not fetched again.

        Raises ArtifactDigestMismatchError, or ArtifactUnavailableError once the attempts are used up.
        """
        key = artifact.digest or artifact.uri or "inline"
        turn = self._in_progress.setdefault(key, asyncio.Lock())
        async with turn:
            cancelled = threading.Event()
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, Fetch(self._root, self._limits, artifact, progress, cancelled).run
            )
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                cancelled.set()
                with suppress(FetchCancelledError, ArtifactUnavailableError, ArtifactDigestMismatchError):
                    await work
                raise


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), FETCH_NICENESS)
