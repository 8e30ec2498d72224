"""Builds the operator's object graph, once, and runs it: prime, watch, wait to lead, reconcile; then backwards.

Every replica primes and watches, so that one that takes over starts warm; only the leader reconciles.
"""

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeVar

from podium_operator import health
from podium_operator.cache import MODEL, PIPELINE, Cache
from podium_operator.dispatch import Dispatch, Reconciler
from podium_operator.events import Events
from podium_operator.kube.client import KubeClient
from podium_operator.kube.config import Credentials
from podium_operator.kube.transport import Transport
from podium_operator.leader import Elector, LeaseConfig
from podium_operator.logs import get_logger
from podium_operator.metrics import Metrics
from podium_operator.pods.client import PodClient
from podium_operator.promql import Prometheus
from podium_operator.reconcile.resource import ResourceReconciler
from podium_operator.reconcile.serving import Parts
from podium_operator.resources.assignment import written_transitions
from podium_operator.resync import Resync
from podium_operator.settings import Settings
from podium_operator.watched import WATCHED
from podium_operator.watches import Watches
from podium_operator.workqueue import Priority, Workers, WorkQueue

log = get_logger(__name__)

_FLUSH_EVENTS_S = 2.0
_T = TypeVar("_T")


class Operator:
    """One operator process. `run` until a signal or a failure; constructing it connects to nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._cache = Cache(self._metrics)
        self._queue = WorkQueue(self._metrics)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Returns after SIGTERM or SIGINT, the Lease released. Raises OperatorError where it cannot go on."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            stack.enter_context(self._signals())
            credentials = await Credentials.load(settings.kubeconfig)
            # Its own connections: a Lease must be renewed however busy the reconcilers are.
            elector = Elector(
                await stack.enter_async_context(self._client(credentials)), _lease(settings), floor=self._fencing_floor
            )
            client = await stack.enter_async_context(self._client(credentials, elector))
            pods = await stack.enter_async_context(
                PodClient(self._metrics, port=settings.pod_admin_port, timeout_s=settings.pod_timeout_seconds)
            )
            prometheus = await stack.enter_async_context(Prometheus(settings.prometheus_addresses))
            watches = Watches(credentials, self._cache, self._queue, self._metrics)
            await stack.enter_async_context(self._health(watches))
            resync = Resync(client, self._cache, self._queue, self._metrics, settings.namespaces)
            watched = await self._unless_stopped(resync.prime(WATCHED, timeout_s=settings.prime_timeout_seconds))
            if watched is None:
                return
            await stack.enter_async_context(watches.running(watched, settings.namespaces))
            # kopf took the signals for itself as it started; they must drain the workers first.
            stack.enter_context(self._signals())
            stack.push_async_callback(elector.release)
            events = Events(client)
            reconcilers = self._reconcilers(client, pods, prometheus, events, elector)
            dispatch = Dispatch(reconcilers, self._metrics, pass_timeout_s=settings.pass_timeout_seconds)
            workers = Workers(self._queue, dispatch, count=settings.workers)
            try:
                async with asyncio.TaskGroup() as group:
                    background = [
                        group.create_task(resync.run(watched, period_s=settings.resync_seconds), name="resync"),
                        group.create_task(events.run(), name="events"),
                        group.create_task(resync.follow(watches.liveness, watched), name="heal"),
                    ]
                    await self._lead(elector, workers, watches, group)
                    await events.flush(_FLUSH_EVENTS_S)
                    for task in background:
                        task.cancel()
            except BaseExceptionGroup as exc:
                raise exc.exceptions[0] from exc

    async def _lead(self, elector: Elector, workers: Workers, watches: Watches, group: asyncio.TaskGroup) -> None:
        """Wait to lead, and lead until stopped; then let the passes in work end, still leading."""
        if await self._unless_stopped(elector.acquire(), watches) is None:
            return
        holding = group.create_task(elector.hold(), name="lease")
        self._metrics.leading(True)
        for key in self._cache.resources():
            self._queue.add(key, Priority.RESYNC)
        workers.start()
        try:
            await self._unless_stopped(workers.join(), watches)
        finally:
            await workers.stop(grace_s=self._settings.shutdown_grace_seconds if self._stop.is_set() else 0.0)
            self._metrics.leading(False)
            holding.cancel()

    async def _unless_stopped(self, wanted: Coroutine[Any, Any, _T], watches: Watches | None = None) -> _T | None:
        """What the coroutine returns; None where a signal came first. Raises WatchesEnded where the watches broke."""
        work = asyncio.create_task(wanted)
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        waited: set[asyncio.Task[Any]] = {work, stopped} | ({watches.task} if watches else set())
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if watches is not None and watches.task.done():
                watches.raise_ended()
            return work.result() if work.done() and not self._stop.is_set() else None
        finally:
            stopped.cancel()
            work.cancel()
            await asyncio.wait({work, stopped})

    @contextlib.asynccontextmanager
    async def _client(self, credentials: Credentials, leader: Elector | None = None) -> AsyncIterator[KubeClient]:
        """With a leader, writes are refused from the moment on when it may no longer lead."""
        fence = leader.check if leader else None
        client = KubeClient(Transport(credentials, self._metrics), fence=fence)
        try:
            yield client
        finally:
            await client.close()

    def _health(self, watches: Watches) -> contextlib.AbstractAsyncContextManager[int]:
        primed = {"caches-primed": lambda: self._cache.primed}
        # Alive before the first listing is over too: how long that may take is bounded by itself.
        live = {"watches": lambda: watches.alive or not self._cache.primed}
        settings = self._settings
        return health.serving(
            settings.health_host, settings.health_port, live=live, ready=primed, metrics=self._metrics
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _fencing_floor(self) -> int:
        """One above every fencing number that an assignment in the cache names."""
        named = (written_transitions(each) for each in self._cache.objects("ConfigMap"))
        return max((number + 1 for number in named if number is not None), default=0)

    def _reconcilers(
        self, client: KubeClient, pods: PodClient, prometheus: Prometheus, events: Events, elector: Elector
    ) -> Mapping[str, Reconciler]:
        parts = Parts(
            client=client,
            cache=self._cache,
            pods=pods,
            events=events,
            transitions=lambda: elector.transitions,
            runtime_image=self._settings.runtime_image,
            wake=self._queue.add,
            now=lambda: datetime.now(UTC),
            prometheus=prometheus,
        )
        reconciler = ResourceReconciler(parts)
        return {MODEL: reconciler, PIPELINE: reconciler}


def _lease(settings: Settings) -> LeaseConfig:
    return LeaseConfig(
        namespace=settings.lease_in,
        name=settings.lease_name,
        identity=settings.identity or f"{socket.gethostname()}_{secrets.token_hex(4)}",
        duration_s=settings.lease_duration_seconds,
        renew_s=settings.lease_renew_seconds,
        retry_s=settings.lease_retry_seconds,
    )
