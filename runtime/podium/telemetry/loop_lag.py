"""How late the event loop is: what every request waits beside its own work."""

import asyncio

from podium.telemetry.histogram import Histogram

LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
INTERVAL_S = 0.25


class LoopLag:
    """Wakes four times a second and counts by how much it was late."""

    def __init__(self) -> None:
        self.seconds = Histogram(LAG_BOUNDS_S)
        """Wake-ups by lateness."""

    async def watch(self) -> None:
        """Measures until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            self.seconds.add(max(0.0, loop.time() - due))
