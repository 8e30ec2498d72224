"""Complete listings of what is watched: once before anything is done, and then again and again.

A watch can miss a deletion (a re-list after 410 replays only what exists), so what the caches hold is compared with the
API server's own list every period. All resources are looked at again within the period, spread over it.
"""

import asyncio
import random
from collections.abc import Iterable, Sequence

from podium_operator.cache import Cache, Healed
from podium_operator.errors import NotPrimed, OperatorError
from podium_operator.kube.client import KubeClient
from podium_operator.kube.errors import Forbidden
from podium_operator.liveness import Liveness
from podium_operator.logs import get_logger
from podium_operator.metrics import Metrics
from podium_operator.watched import Watched
from podium_operator.workqueue import Priority, WorkQueue

log = get_logger(__name__)

_PRIME_RETRY_S = 2.0
_PARALLEL_LISTS = 4


class Resync:
    """Fills and heals the cache, and enqueues what that touches. Borrows all it is given."""

    def __init__(
        self, client: KubeClient, cache: Cache, queue: WorkQueue, metrics: Metrics, namespaces: Sequence[str]
    ) -> None:
        """`namespaces`: those served; empty for all."""
        self._client = client
        self._cache = cache
        self._queue = queue
        self._metrics = metrics
        self._namespaces: Sequence[str | None] = tuple(namespaces) or (None,)

    async def prime(self, watched: Iterable[Watched], *, timeout_s: float) -> tuple[Watched, ...]:
        """Fill the cache from complete listings; returns the kinds that may be read. Enqueues nothing.

        Tried until the time is over, as the CRDs may be about to be installed. Raises NotPrimed with the last cause.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        slots = asyncio.Semaphore(_PARALLEL_LISTS)
        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                tasks = [(each, group.create_task(self._prime(each, slots))) for each in watched]
        except* TimeoutError:
            raise NotPrimed(f"the caches are not filled after {timeout_s:g} s: {self._cause}") from None
        self._cache.primed = True
        log.info("caches_primed", seconds=round(loop.time() - started, 3), resources=len(self._cache.resources()))
        return tuple(each for each, task in tasks if task.result())

    async def run(self, watched: Sequence[Watched], *, period_s: float) -> None:
        """Heal the cache every period until cancelled. API errors are logged; the next period tries again."""
        while True:
            await asyncio.sleep(period_s * random.uniform(0.9, 1.1))  # noqa: S311 - spreads load, guards nothing
            await self.heal(watched)
            self.enqueue_all(within_s=period_s * 0.9)

    async def follow(self, liveness: Liveness, watched: Sequence[Watched]) -> None:
        """Heal a kind whenever its watch has listed anew, as at its start and after 410; until cancelled."""
        while True:
            kinds = await liveness.relisted()
            await self.heal([each for each in watched if each.kind.name in kinds])

    async def heal(self, watched: Iterable[Watched]) -> None:
        """Compare the cache with complete listings, one kind after the other, and enqueue what was missed."""
        for each in watched:
            try:
                for healed in await self._take_over(each):
                    self._report(each, healed)
            except OperatorError as exc:
                log.warning("resync_failed", kind=each.kind.name, cause=str(exc))

    def enqueue_all(self, *, within_s: float) -> None:
        """Look at every resource again, spread over that time, behind live events."""
        for key in self._cache.resources():
            self._queue.add_after(key, random.uniform(0, within_s), Priority.RESYNC)  # noqa: S311 - as above

    _cause = "nothing was tried"

    async def _prime(self, each: Watched, slots: asyncio.Semaphore) -> bool:
        while True:
            try:
                async with slots:
                    await self._take_over(each)
            except Forbidden as exc:
                if each.optional:
                    log.warning("kind_not_watched", kind=each.kind.name, cause=str(exc))
                    return False
                self._cause = str(exc)
            except OperatorError as exc:
                self._cause = str(exc)
            else:
                return True
            log.warning("priming_failed", kind=each.kind.name, cause=self._cause)
            await asyncio.sleep(_PRIME_RETRY_S * random.uniform(0.8, 1.2))  # noqa: S311 - as above

    async def _take_over(self, each: Watched) -> list[Healed]:
        namespaces = self._namespaces if each.kind.namespaced else (None,)
        found = []
        for namespace in namespaces:
            listing = await self._client.snapshot(each.kind.name, namespace, label_selector=each.label_selector)
            found.append(self._cache.heal(each.kind.name, listing, namespace))
        return found

    def _report(self, each: Watched, healed: Healed) -> None:
        for event, refs in (("MODIFIED", healed.changed), ("DELETED", healed.removed)):
            for missed in refs:
                self._metrics.healed(each.kind.name, event)
                log.debug("resync_found_change", kind=each.kind.name, type=event, object=str(missed))
        users = frozenset().union(*(self._cache.users(key) for key in healed.owners))
        for key in healed.owners | users:
            self._queue.add(key, Priority.RESYNC)
