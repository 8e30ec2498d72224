"""The run credits of each device of the pod, on the event loop's clock (rules: podium.batching.device)."""

import time
from collections.abc import Callable

from podium.batching.device import Device
from podium.serving.workers.timer import PreciseTimer
from podium.telemetry.cpus import cpu_units

CPU = "cpu"


class RunDevice:
    """Credits of one device, and the alarm that lends those of runs that take too long."""

    def __init__(self, units: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.credits = Device(units)
        self._clock = clock
        self._alarm = PreciseTimer(self.deal)

    def deal(self) -> None:
        """Starts what can be started now, of any group."""
        now = self._clock()
        self.credits.deal(now)
        if self.credits.free_units > 0 or not self.credits.is_wanted(now):
            self._alarm.arm(None)
            return
        look_again = self.credits.lend_overdue(now)
        if self.credits.free_units > 0:
            self.credits.deal(now)
        self._alarm.arm(look_again)

    def close(self) -> None:
        """Gives its timer back."""
        self._alarm.close()


class RunDevices:
    """Made as they are asked for: `cpu`, and each GPU that a worker is placed on."""

    def __init__(self, cpus: int | None = None) -> None:
        """`cpus`: threads that may run at once on the CPU; None: as many as the container has."""
        self._cpus = cpus or cpu_units()
        self._devices: dict[str, RunDevice] = {}

    def of(self, name: str) -> RunDevice:
        """The device of a worker, by the name that its supervisor gives."""
        device = self._devices.get(name)
        if device is None:
            device = self._devices[name] = RunDevice(self._cpus if name == CPU else 1)
        return device

    def close(self) -> None:
        """At the pod's end."""
        for device in self._devices.values():
            device.close()


def units_of(device: str, threads: int) -> int:
    """Credits that one run takes: a GPU runs one batch at a time, a CPU as many threads as it has cores."""
    return threads if device == CPU else 1
