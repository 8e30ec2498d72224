"""Slots that models still look at after their answers: given back when they let go, and bounded."""

from collections.abc import Collection
from dataclasses import dataclass, field

from podium.ipc.arena import Arena
from podium.serving.workers.supervisor import Supervisor
from podium.telemetry.logging import get_logger

log = get_logger(__name__)

MAX_HELD_SHARE = 4
"""A model that keeps views of more than one in this many parts of the arena gets a new process."""


@dataclass(slots=True)
class HeldInputs:
    """Worker → generations of the slots that its model has kept views of."""

    arena: Arena
    _held: dict[Supervisor, frozenset[int]] = field(default_factory=dict)

    def heard(self, instance: Supervisor, held: Collection[int]) -> None:
        """Gives back what the model has let go of since its last answer; what it looks at still stays."""
        before = self._held.get(instance, frozenset())
        if not held and not before:
            return
        now = frozenset(held)
        if now == before:
            return
        if now - before:
            log.warning("model_keeps_views", instance=instance.name, slots=len(now), advice="copy what you keep")
        self.arena.ledger.drop_holder(instance.holder, before - now)
        self._held[instance] = now
        kept_bytes = self._bytes_of(instance)
        if kept_bytes > self.arena.size_bytes // MAX_HELD_SHARE:
            instance.kill(f"its model keeps views of {kept_bytes} bytes of its inputs; copy what must outlive infer")

    @property
    def nbytes(self) -> int:
        """What all of them keep, as whole slots."""
        return sum(self._bytes_of(instance) for instance in self._held)

    def _bytes_of(self, instance: Supervisor) -> int:
        return self.arena.ledger.bytes_of(instance.holder, self._held[instance])

    def forget(self, instance: Supervisor) -> None:
        """Its process is gone, and its leases with it."""
        self._held.pop(instance, None)
