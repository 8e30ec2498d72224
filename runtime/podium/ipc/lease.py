"""Who may use which slot until when. Truth lives in the front end; nothing here is shared with a worker.

A slot is a range of the arena with a generation that no other slot ever has. It is free when its last lease ends.
Used by one thread, the event loop's.
"""

from collections.abc import Callable, Collection, Iterator
from enum import Enum
from typing import NamedTuple

from podium.errors import LeaseError
from podium.ipc.allocator import Allocator


class Holder(NamedTuple):
    """Who holds a lease: the front end, or one life of a worker."""

    name: str
    epoch: int = 0


FRONT_END = Holder("front-end")


class SlotState(Enum):
    """WRITING: one exclusive lease. SEALED: content is final, any number of readers. FREE: gone."""

    WRITING = "writing"
    SEALED = "sealed"
    FREE = "free"


class Slot:
    """One allocated range. `generation` counts allocations of the whole arena, so that a stale reference shows."""

    __slots__ = ("capacity", "generation", "leases", "offset", "state")

    def __init__(self, offset: int, capacity: int, generation: int) -> None:
        self.offset = offset
        self.capacity = capacity
        self.generation = generation
        self.state = SlotState.WRITING
        self.leases: set[Lease] = set()


class Lease:
    """A counted right to a slot. Starts at one; `release()` past zero raises LeaseError."""

    __slots__ = ("_count", "_ledger", "holder", "slot")

    def __init__(self, ledger: "Ledger", slot: Slot, holder: Holder) -> None:
        self._ledger = ledger
        self._count = 1
        self.slot = slot
        self.holder = holder

    @property
    def count(self) -> int:
        """Releases that are still due."""
        return self._count

    def retain(self) -> None:
        """One more release is due. Raises LeaseError on an ended lease."""
        if self._count <= 0:
            raise LeaseError(f"lease of {self.holder.name} on slot {self.slot.generation} was retained after its end")
        self._count += 1

    def release(self) -> None:
        """One release is done; the last ends the lease, and the last lease frees the slot."""
        if self._count <= 0:
            raise LeaseError(f"lease of {self.holder.name} on slot {self.slot.generation} was released twice")
        self._count -= 1
        if self._count == 0:
            self._ledger.end(self)

    def revoke(self) -> None:
        """Ends the lease whatever its count: its holder is dead."""
        if self._count > 0:
            self._count = 0
            self._ledger.end(self)


class Ledger:
    """Every slot in use and every lease on it."""

    def __init__(self, allocator: Allocator, on_free: Callable[[Slot], None] | None = None) -> None:
        """`on_free` sees each slot before its range can be handed out again."""
        self._allocator = allocator
        self._on_free = on_free
        self._slots: dict[int, Slot] = {}
        """generation → slot."""
        self._held: dict[Holder, set[Lease]] = {}
        self._generation = 0

    def allocate(self, nbytes: int, holder: Holder = FRONT_END) -> Lease:
        """The writer's lease on a new slot of at least `nbytes`. Raises ArenaExhausted."""
        offset, capacity = self._allocator.allocate(nbytes)
        self._generation += 1
        slot = Slot(offset, capacity, self._generation)
        self._slots[slot.generation] = slot
        return self._record(slot, holder)

    def seal(self, slot: Slot) -> None:
        """Declares the content final; from now on the slot can be shared."""
        self._check_live(slot)
        slot.state = SlotState.SEALED

    def resize(self, slot: Slot, nbytes: int) -> bool:
        """Makes a slot that is being written longer or shorter where it lies; False where that cannot be. Raises
        LeaseError for one that others may read."""
        self._check_live(slot)
        if slot.state is not SlotState.WRITING:
            raise LeaseError(f"slot {slot.generation} is sealed")
        capacity = self._allocator.resize(slot.offset, nbytes)
        if capacity is None:
            return False
        slot.capacity = capacity
        return True

    def share(self, slot: Slot, holder: Holder) -> Lease:
        """One more lease on a sealed slot. Raises LeaseError while it is being written or after it was freed."""
        self._check_live(slot)
        if slot.state is not SlotState.SEALED:
            raise LeaseError(f"slot {slot.generation} is still being written")
        return self._record(slot, holder)

    def drop_holder(self, holder: Holder, generations: Collection[int] | None = None) -> int:
        """Ends every lease of one who died, or those on the given slots; returns how many there were."""
        held = self._held.get(holder, set())
        leases = [lease for lease in held if generations is None or lease.slot.generation in generations]
        for lease in leases:
            lease.revoke()
        return len(leases)

    def end(self, lease: Lease) -> None:
        """Takes an ended lease out of the books. Called by Lease alone."""
        slot = lease.slot
        slot.leases.discard(lease)
        held = self._held[lease.holder]
        held.discard(lease)
        if not held:
            del self._held[lease.holder]
        if not slot.leases:
            self._free(slot)

    def held_by(self, holder: Holder) -> int:
        """How many leases one holder has."""
        return len(self._held.get(holder, ()))

    def bytes_of(self, holder: Holder, generations: Collection[int]) -> int:
        """Capacity of those of the given slots that one holder has leases on."""
        slots = {lease.slot for lease in self._held.get(holder, ()) if lease.slot.generation in generations}
        return sum(slot.capacity for slot in slots)

    def slots(self) -> Iterator[Slot]:
        """Every slot in use."""
        return iter(self._slots.values())

    def check_integrity(self) -> None:
        """Asserts that every slot in use is held by exactly the leases recorded, and the allocator agrees."""
        self._allocator.check_integrity()
        assert sum(slot.capacity for slot in self._slots.values()) == self._allocator.used_bytes
        from_slots = {lease for slot in self._slots.values() for lease in slot.leases}
        from_holders = {lease for leases in self._held.values() for lease in leases}
        assert from_slots == from_holders, "slots and holders disagree on the leases"
        for generation, slot in self._slots.items():
            assert slot.generation == generation
            assert slot.leases, f"slot {generation} is in use and held by nobody"
            assert slot.state is not SlotState.FREE
            assert slot.state is SlotState.SEALED or len(slot.leases) == 1, "two leases on a slot being written"
            assert all(lease.count > 0 for lease in slot.leases)

    def _record(self, slot: Slot, holder: Holder) -> Lease:
        lease = Lease(self, slot, holder)
        slot.leases.add(lease)
        self._held.setdefault(holder, set()).add(lease)
        return lease

    def _free(self, slot: Slot) -> None:
        slot.state = SlotState.FREE
        del self._slots[slot.generation]
        if self._on_free is not None:
            self._on_free(slot)
        self._allocator.free(slot.offset)

    def _check_live(self, slot: Slot) -> None:
        if slot.state is SlotState.FREE:
            raise LeaseError(f"slot {slot.generation} was freed")
