"""`Lane`: the workers of one group on one device, as that device deals with them."""

from collections.abc import Callable
from typing import Protocol

from podium.batching.device import Run
from podium.serving.dispatch.hands import Hands
from podium.serving.workers.run_devices import RunDevice
from podium.serving.workers.supervisor import Supervisor


class Work(Protocol):
    """The dispatcher, as its lanes see it."""

    @property
    def has_work(self) -> bool:
        """False where nothing waits, for any worker: one look in place of one for each worker."""

    def next_run_s(self, instance: Supervisor, now: float) -> float | None:
        """What the next batch for this worker is expected to take; None: there is none."""

    def start(self, instance: Supervisor, hold: Callable[[float], Run], now: float) -> Run | None:
        """Sends it. `hold` takes the credit for a run of the given seconds."""


class Lane:
    """A client of its device's round."""

    def __init__(self, work: Work, device: RunDevice, units: int, weight: int, hands: Hands) -> None:
        """Joins the device; `leave` it."""
        self.device = device
        self.instances: list[Supervisor] = []
        self._work = work
        self._hands = hands
        self._turn = 0
        self._share = device.credits.join(self, units=units, weight=weight)

    def set_weight(self, weight: int) -> None:
        """From the next round on."""
        self._share.weight = weight

    def leave(self) -> None:
        """The group ends: what it held is free for others."""
        self.device.credits.leave(self._share)
        self.device.deal()

    def is_contended(self, now: float) -> bool:
        """True where another group waits for a credit of the device."""
        return self.device.credits.is_contended(self._share, now)

    def next_run_s(self, now: float) -> float | None:
        """For the device: what the next run would take."""
        if not self._work.has_work:
            return None
        for instance in self._free():
            if (needs_s := self._work.next_run_s(instance, now)) is not None:
                return needs_s
        return None

    def start_run(self, now: float) -> Run | None:
        """For the device: begins it. Workers take turns, so that each is known to be well."""
        for instance in self._free():
            run = self._work.start(instance, lambda seconds: self.device.credits.hold(self._share, seconds, now), now)
            if run is not None:
                self._turn += 1
                return run
        return None

    def has_free_worker(self) -> bool:
        """Whether a worker of this lane holds nothing."""
        hands = self._hands
        for instance in self.instances:  # noqa: SIM110 - a generator costs more than the look, for each request
            if instance.ready and instance not in hands:
                return True
        return False

    def _free(self) -> list[Supervisor]:
        """Whose turn it is first. Those whom the caller gives something leave: look again after that."""
        hands, instances = self._hands, self.instances
        free = [instance for instance in instances if instance.ready and instance not in hands]
        if len(free) > 1:
            first = self._turn % len(instances)
            free.sort(key=lambda instance: (instances.index(instance) - first) % len(instances))
        return free
