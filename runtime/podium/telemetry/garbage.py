"""When the cyclic garbage collector may stop the event loop: full collections only while nothing is answered.

A full collection over what the front end imports costs tens of milliseconds, so what lives long is frozen out of it,
and the rest waits for an idle moment (or, under load that never ends, for LONGEST_S). Small generations run as ever.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Callable

from podium.telemetry.histogram import Histogram

IDLE_INTERVAL_S = 30.0
LONGEST_S = 600.0
YOUNGEST = 10_000
"""Objects more than before that start a collection of the youngest: requests leave no cycles, so that looking for some
after every 700 objects is for nothing."""
NEVER = 1_000_000
"""Threshold of the oldest generation that is not reached between two of our own collections."""
PAUSE_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)


class GarbageControl:
    """Owns the collector of this process from `start` on, and measures every pause."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = 0.0
        self._thresholds = gc.get_threshold()
        self._last_full = clock()
        self.pauses: defaultdict[int, Histogram] = defaultdict(lambda: Histogram(PAUSE_BOUNDS_S))
        """generation → pauses in seconds."""

    def start(self) -> None:
        """Freezes what is there and takes over full collections."""
        self._thresholds = gc.get_threshold()
        _, middle, _ = self._thresholds
        gc.set_threshold(YOUNGEST, middle, NEVER)
        gc.callbacks.append(self._measure)
        self.freeze()

    def stop(self) -> None:
        """Gives the collector back."""
        gc.callbacks.remove(self._measure)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def freeze(self) -> None:
        """What lives now is walked no more: after the start, and after each change of routes. Cheap."""
        gc.freeze()

    def tick(self, *, idle: bool) -> None:
        """Collects fully if it is time. Call it about once a second."""
        since = self._clock() - self._last_full
        if (idle and since >= IDLE_INTERVAL_S) or since >= LONGEST_S:
            self._last_full = self._clock()
            gc.collect()

    def _measure(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = self._clock()
            return
        self.pauses[info["generation"]].add(self._clock() - self._began)
