"""The keyed work queue between watches and reconcilers. A leaf: imports nothing of the operator.

Contract: a key is worked on by one worker at a time; however often it is added meanwhile, one more pass follows.
"""

import asyncio
import contextlib
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol


class Key(NamedTuple):
    """One resource to reconcile."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Priority(IntEnum):
    """Live events pass before the start-up listing and the resync."""

    LIVE = 0
    RESYNC = 1


@dataclass(frozen=True, slots=True)
class BackOff:
    """Delays after failures of one key: `base_s` doubling up to `cap_s`, each within ± `jitter` of itself."""

    base_s: float = 0.25
    cap_s: float = 60.0
    jitter: float = 0.2

    def delay_s(self, failures: int) -> float:
        """Before the next try after that many failures in a row (1, 2, …)."""
        exact = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 32))
        spread = random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - spreads load, guards nothing
        return min(self.cap_s, exact * spread)


class QueueMetrics(Protocol):
    """What the queue tells about itself; `metrics.Metrics` has it."""

    def queue_depth(self, depth: int) -> None:
        """Keys waiting to be worked on now."""

    def queue_add(self) -> None:
        """A key came in that was not waiting."""

    def queue_retry(self) -> None:
        """A key comes back after a failure."""

    def queue_wait(self, seconds: float) -> None:
        """How long a key waited for a worker."""


class WorkQueue:
    """Keys waiting, delayed or in work. Bounded by the number of distinct keys. Belongs to one event loop."""

    def __init__(self, metrics: QueueMetrics, back_off: BackOff | None = None) -> None:
        self._metrics = metrics
        self._back_off = back_off or BackOff()
        self._order = itertools.count()
        self._ready: list[tuple[Priority, int, Key]] = []
        self._waiting: dict[Key, tuple[Priority, float]] = {}
        """key → its priority and when it came; the heap may hold older entries of the same key, skipped at get."""
        self._working: set[Key] = set()
        self._again: dict[Key, Priority] = {}
        """Keys added while in work."""
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def add(self, key: Key, priority: Priority = Priority.LIVE) -> None:
        """Have the key worked on as soon as a worker is free; a delay it was under ends. Does nothing once closed."""
        if self._closed:
            return
        self._cancel_timer(key)
        if key in self._working:
            self._again[key] = min(priority, self._again.get(key, priority))
            return
        known = self._waiting.get(key)
        if known is not None and known[0] <= priority:
            return
        if known is None:
            self._metrics.queue_add()
        self._push(key, priority, since=known[1] if known else self._now())

    def add_after(self, key: Key, delay_s: float, priority: Priority = Priority.LIVE) -> None:
        """Have the key worked on after a delay. Of two delays the earlier counts; a key already waiting is left so."""
        if self._closed or key in self._waiting or key in self._again:
            return
        due = self._now() + delay_s
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_at(due, self._due, key, priority)

    def forget(self, key: Key) -> None:
        """Drop the key's delay and its count of failures: it is gone."""
        self._cancel_timer(key)
        self._failures.pop(key, None)

    async def get(self) -> Key | None:
        """The next key, now in work until `done`; None once closed."""
        while True:
            if self._closed:
                return None
            key = self._pop()
            if key is not None:
                return key
            self._changed.clear()
            await self._changed.wait()

    def done(self, key: Key, *, requeue_after_s: float | None = None) -> None:
        """The pass went well. Comes back at once where added meanwhile, else after the delay, if any."""
        self._failures.pop(key, None)
        self._release(key, requeue_after_s)

    def failed(self, key: Key) -> float:
        """The pass failed: comes back after the back-off, which is returned.

        Where the key was added meanwhile, after the first step of the back-off only: the cause may have been mended.
        """
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = self._back_off.delay_s(failures if self._again.pop(key, None) is None else 1)
        self._metrics.queue_retry()
        self._release(key, delay)
        return delay

    def failures(self, key: Key) -> int:
        """Failures of the key in a row."""
        return self._failures.get(key, 0)

    def __len__(self) -> int:
        """Keys that wait for a worker now."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in work; delays may run."""
        return not self._waiting and not self._working

    def close(self) -> None:
        """Hand out no more keys and forget delays. Workers in a pass finish it."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._changed.set()

    def _release(self, key: Key, requeue_after_s: float | None) -> None:
        self._working.discard(key)
        self._changed.set()
        if self._closed:
            return
        priority = self._again.pop(key, None)
        if priority is not None:
            self.add(key, priority)
        elif requeue_after_s is not None:
            self.add_after(key, requeue_after_s)

    def _due(self, key: Key, priority: Priority) -> None:
        self._timers.pop(key, None)
        self.add(key, priority)

    def _push(self, key: Key, priority: Priority, since: float) -> None:
        self._waiting[key] = (priority, since)
        heapq.heappush(self._ready, (priority, next(self._order), key))
        self._metrics.queue_depth(len(self._waiting))
        self._changed.set()

    def _pop(self) -> Key | None:
        while self._ready:
            priority, _, key = heapq.heappop(self._ready)
            known = self._waiting.get(key)
            if known is None or known[0] != priority:
                continue  # an entry from before its priority rose
            del self._waiting[key]
            self._working.add(key)
            self._cancel_timer(key)
            self._metrics.queue_depth(len(self._waiting))
            self._metrics.queue_wait(self._now() - known[1])
            return key
        return None

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


Handle = Callable[[Key], Awaitable[float | None]]
"""Works on one key; returns when to come back in seconds, or None. Raises where it should be tried again."""


class Workers:
    """A bounded number of workers on one queue, between `start` and `stop`."""

    def __init__(self, queue: WorkQueue, handle: Handle, *, count: int) -> None:
        """`handle` bounds its own time."""
        if count < 1:
            raise ValueError(f"count is {count}, expected at least 1")
        self._queue = queue
        self._handle = handle
        self._count = count
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers on the running loop."""
        self._tasks = [
            asyncio.create_task(self._work(), name=f"reconcile worker {number}") for number in range(self._count)
        ]

    async def join(self) -> None:
        """Wait until a worker ends, which they do only when the queue is closed; raises what broke one."""
        await asyncio.gather(*self._tasks)

    async def stop(self, *, grace_s: float) -> None:
        """Close the queue, let passes in work finish within `grace_s`, cancel what is left."""
        self._queue.close()
        if not self._tasks:
            return
        _, running = await asyncio.wait(self._tasks, timeout=grace_s)
        for task in running:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            requeue_after_s: float | None = None
            try:
                requeue_after_s = await self._handle(key)
            except asyncio.CancelledError:
                self._queue.failed(key)
                raise
            except Exception:  # noqa: BLE001 - `handle` reported it; the queue decides when to try again
                self._queue.failed(key)
            else:
                self._queue.done(key, requeue_after_s=requeue_after_s)
