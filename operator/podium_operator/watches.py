"""Watches: every event goes into the cache and puts the owner's key into the queue. Nothing else happens here.

The only module that imports kopf, and only its watch runtime: plain event handlers, no finalizers, no annotations, no
Events, no peering, no indices, no change detection. Handlers cannot fail, so kopf never has anything to retry.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from http import HTTPStatus
from typing import Any, NoReturn

import kopf

from podium_operator.cache import MODEL, Cache, owner_key
from podium_operator.errors import WatchesEnded
from podium_operator.kube.config import Credentials
from podium_operator.kube.kinds import Kind
from podium_operator.kube.session import ReadRequest, watch_session
from podium_operator.liveness import Liveness
from podium_operator.logs import get_logger
from podium_operator.metrics import Metrics
from podium_operator.watched import Watched
from podium_operator.workqueue import Priority, WorkQueue

log = get_logger(__name__)

_PAGE = 500
_STOP_TIMEOUT_S = 10.0
_SERVER_TIMEOUT_S = 600
"""How long the API server lets one watch request run."""
_SILENCE_S = 1200.0
"""A watch that has begun no request for so long is stuck: each one ends by itself after _SERVER_TIMEOUT_S."""


class BackOffs:
    """Delays between tries of the watch runtime's own requests: endless, as an API server may be away for long.

    A finite sequence would make the process exit with the first outage that outlasts it.
    """

    def __init__(self, base_s: float = 0.5, cap_s: float = 30.0) -> None:
        self._base_s = base_s
        self._cap_s = cap_s

    def __iter__(self) -> Iterator[float]:
        step = self._base_s
        while True:
            yield step * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
            step = min(self._cap_s, step * 2)


class Watches:
    """The watches of all kinds. `run` until stopped; `alive` in between."""

    def __init__(self, credentials: Credentials, cache: Cache, queue: WorkQueue, metrics: Metrics) -> None:
        self._credentials = credentials
        self._cache = cache
        self._queue = queue
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._liveness: Liveness | None = None

    @property
    def alive(self) -> bool:
        """Whether the watch runtime runs and no watch has been silent for long. It ends as a whole with any one."""
        running = self._task is not None and not self._task.done()
        return running and not self.liveness.silent(_SILENCE_S)

    @property
    def liveness(self) -> Liveness:
        """What is known of each watch. Raises WatchesEnded before they are started."""
        if self._liveness is None:
            raise WatchesEnded("the watches were never started")
        return self._liveness

    @property
    def task(self) -> asyncio.Task[None]:
        """The running watches; ends only when broken. Wait for it from a task that is older: as it ends, kopf cancels
        every task that is younger than itself."""
        if self._task is None:
            raise WatchesEnded("the watches were never started")
        return self._task

    def raise_ended(self) -> NoReturn:
        """Raises WatchesEnded with what broke them."""
        cause = None if self.task.cancelled() else self.task.exception()
        raise WatchesEnded(f"the watches ended: {cause or 'without an error'}") from cause

    @contextlib.asynccontextmanager
    async def running(self, watched: Sequence[Watched], namespaces: Sequence[str]) -> AsyncIterator[None]:
        """Watch within the block. kopf's signal handlers are replaced: see `wiring`."""
        ready = asyncio.Event()
        self._liveness = Liveness(
            {
                each.kind.path(namespace if each.kind.namespaced else None): each.kind.name
                for each in watched
                for namespace in (namespaces or (None,))
            }
        )
        self._task = asyncio.create_task(
            kopf.operator(
                registry=self._registry(watched),
                settings=_settings(watched, scan=not namespaces),
                standalone=True,
                clusterwide=not namespaces,
                namespaces=tuple(namespaces),
                ready_flag=ready,
            ),
            name="watches",
        )
        try:
            await self._started(ready)
            yield
        finally:
            await self._end()

    async def _started(self, ready: asyncio.Event) -> None:
        waiter = asyncio.create_task(ready.wait(), name="watches ready")
        await asyncio.wait([waiter, self.task], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if self.task.done():
            self.raise_ended()

    async def _end(self) -> None:
        # Its stop flag would make kopf wait five seconds for tasks of ours, such as an open connection of /metrics.
        self.task.cancel()
        await asyncio.wait([self.task], timeout=_STOP_TIMEOUT_S)

    def _registry(self, watched: Sequence[Watched]) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for each in watched:
            kind = each.kind
            handle = _Handler(kind, self)
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)(handle.event)
        return registry

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        """Called at the start, and again after each 401."""
        await self._credentials.reload()
        session = watch_session(self._credentials, self._told)
        return kopf.AiohttpSession(server=self._credentials.server, aiohttp_session=session)

    def _told(self, request: ReadRequest) -> None:
        if request.status is None:
            self.liveness.begins(request.path)
        elif request.status == HTTPStatus.OK:
            self.liveness.answered(request.path, watch=request.watch)

    def take(self, kind: Kind, event: str | None, manifest: dict[str, Any]) -> None:
        """Into the cache, and the keys it concerns into the queue. `event` None: from the first listing."""
        self._metrics.watch_event(kind.name, event or "LISTED")
        typed = {**manifest, "apiVersion": kind.api_version, "kind": kind.name}
        changed = self._cache.removed(typed) if event == "DELETED" else self._cache.told(typed)
        if not changed:
            return
        priority = Priority.RESYNC if event is None else Priority.LIVE
        key = owner_key(typed)
        if key is not None:
            self._queue.add(key, priority)
            if kind.name == MODEL:
                for pipeline in self._cache.users(key):
                    self._queue.add(pipeline, priority)
        elif kind.name == "Node":
            for owner in self._cache.owners_on(manifest["metadata"]["name"]):
                self._queue.add(owner, priority)


class _Handler:
    """One kind's handler: kopf tells which object, not which of our kinds it is of."""

    def __init__(self, kind: Kind, watches: Watches) -> None:
        self._kind = kind
        self._watches = watches

    async def event(self, event: kopf.RawEvent, **_: Any) -> None:
        self._watches.take(self._kind, event["type"], dict(event["object"]))


def _settings(watched: Sequence[Watched], *, scan: bool) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.scanning.disabled = not scan
    settings.watching.chunk_size = _PAGE
    settings.watching.server_timeout = _SERVER_TIMEOUT_S
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = BackOffs()
    settings.process.ultimate_exiting_timeout = None
    for each in watched:
        if each.label_selector:
            kind = each.kind
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = each.label_selector
    return settings
