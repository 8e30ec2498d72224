"""Every slot is free or held by exactly the leases on record, whatever is taken, shared, released or killed."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from podium.errors import ArenaExhausted, DescriptorError, LeaseError
from podium.ipc.arena import FREED, MAX_PROMISE_SHARE, Arena, Promise
from podium.ipc.lease import FRONT_END, Holder, Lease, SlotState

HOLDERS = [FRONT_END, Holder("worker-0", 1), Holder("worker-0", 2), Holder("worker-1", 1)]
SIZE = 4 << 20


class LeaseMachine(RuleBasedStateMachine):
    """Random work on a small arena in debug mode, audited after every step."""

    leases = Bundle("leases")
    promises = Bundle("promises")

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena.create(SIZE, debug=True)
        self.written: dict[int, bytes] = {}
        """generation → the byte pattern that its writer left."""
        self.promised: dict[Promise, int] = {}

    def teardown(self) -> None:
        for holder in HOLDERS:
            self.arena.ledger.drop_holder(holder)
        assert self.arena.stats().used_bytes == 0
        self.arena.ledger.check_integrity()
        self.arena.close()

    @rule(target=leases, size=st.integers(1, 700_000), holder=st.sampled_from(HOLDERS))
    def write(self, size: int, holder: Holder) -> object:
        try:
            buffer = self.arena.allocate(size, holder)
        except ArenaExhausted:
            return multiple()
        generation = buffer.lease.slot.generation
        pattern = generation.to_bytes(8, "little")[:size]
        buffer.data[: len(pattern)] = pattern
        self.written[generation] = pattern
        return buffer.lease

    @rule(target=leases, lease=leases, holder=st.sampled_from(HOLDERS))
    def share(self, lease: Lease, holder: Holder) -> object:
        if lease.slot.state is SlotState.SEALED:
            return self.arena.ledger.share(lease.slot, holder)
        with pytest.raises(LeaseError):
            self.arena.ledger.share(lease.slot, holder)
        return multiple()

    @rule(target=leases, lease=leases)
    def pass_on(self, lease: Lease) -> object:
        """A worker answers with its input: the reader's lease is there before the worker's ends."""
        if lease.slot.state is not SlotState.SEALED or not lease.count:
            return multiple()
        answer = self.arena.ledger.share(lease.slot, FRONT_END)
        lease.revoke()
        assert lease.slot.state is SlotState.SEALED, "never free in between"
        return answer

    @rule(lease=leases)
    def seal(self, lease: Lease) -> None:
        if lease.slot.state is SlotState.FREE:
            with pytest.raises(LeaseError):
                self.arena.ledger.seal(lease.slot)
        else:
            self.arena.ledger.seal(lease.slot)

    @rule(lease=leases)
    def retain(self, lease: Lease) -> None:
        if lease.count:
            lease.retain()
        else:
            with pytest.raises(LeaseError):
                lease.retain()

    @rule(lease=consumes(leases))
    def release(self, lease: Lease) -> None:
        if not lease.count:
            with pytest.raises(LeaseError):
                lease.release()
        while lease.count:
            lease.release()

    @rule(target=promises, nbytes=st.integers(1, 2 * SIZE))
    def promise(self, nbytes: int) -> object:
        before = self.arena.stats()
        free = SIZE - before.used_bytes - before.promised_bytes
        try:
            promise = self.arena.promise(nbytes)
        except ArenaExhausted:
            assert min(nbytes, SIZE // MAX_PROMISE_SHARE) > free
            assert self.arena.stats() == before
            return multiple()
        self.promised[promise] = self.arena.promised_bytes - before.promised_bytes
        assert self.promised[promise] <= free
        return promise

    @rule(promise=promises)
    def end_promise(self, promise: Promise) -> None:
        promise.end()
        self.promised[promise] = 0

    @rule(holder=st.sampled_from(HOLDERS[1:]))
    def kill(self, holder: Holder) -> None:
        held = self.arena.ledger.held_by(holder)
        assert self.arena.ledger.drop_holder(holder) == held
        assert self.arena.ledger.held_by(holder) == 0

    @invariant()
    def books_add_up(self) -> None:
        self.arena.ledger.check_integrity()
        assert self.arena.promised_bytes == sum(self.promised.values())

    @invariant()
    def nobody_wrote_into_a_held_slot(self) -> None:
        for slot in self.arena.ledger.slots():
            pattern = self.written[slot.generation]
            assert bytes(self.arena.read(slot, 0, len(pattern))) == pattern


TestLeaseMachine = LeaseMachine.TestCase
SEARCHING = not settings().derandomize
TestLeaseMachine.settings = settings(
    settings(), max_examples=250 if SEARCHING else 30, stateful_step_count=50, deadline=None
)
"""`make fuzz` takes 10,000 steps that no run had before; `make test` repeats the same 1,500."""


def test_a_freed_slot_is_overwritten_in_debug_mode() -> None:
    arena = Arena.create(SIZE, debug=True)
    buffer = arena.allocate(100)
    buffer.data[:] = b"x" * 100
    buffer.release()
    assert bytes(buffer.data) == FREED[:100]
    buffer.data.release()
    arena.close()


def test_a_slot_is_free_only_after_its_last_lease() -> None:
    arena = Arena.create(SIZE)
    first = arena.allocate(10).lease
    arena.ledger.seal(first.slot)
    second = arena.ledger.share(first.slot, HOLDERS[1])
    second.retain()
    first.release()
    second.release()
    assert arena.stats().slots == 1
    second.release()
    assert arena.stats().slots == 0
    with pytest.raises(LeaseError):
        arena.read(first.slot, 0, 1)
    arena.close()


def test_a_window_outside_its_slot_is_refused() -> None:
    arena = Arena.create(SIZE)
    lease = arena.allocate(4096).lease
    for offset, nbytes in ((-1, 2), (0, 4097), (4096, 1)):
        with pytest.raises(DescriptorError):
            arena.read(lease.slot, offset, nbytes)
    arena.close()
