"""How late the event loop is: what every request waits beside its own work."""

import asyncio
from bisect import bisect_left

LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
INTERVAL_S = 0.25


class LoopLag:
    """Wakes four times a second and counts by how much it was late."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(LAG_BOUNDS_S) + 1)
        """Wake-ups by lateness, not cumulative; the last one is above every bound."""
        self.seconds = 0.0

    async def watch(self) -> None:
        """Measures until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            late = max(0.0, loop.time() - due)
            self.buckets[bisect_left(LAG_BOUNDS_S, late)] += 1
            self.seconds += late
