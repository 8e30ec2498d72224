"""Ranges never overlap, everything freed can be had again, and the books always add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.errors import ArenaExhausted
from podium.ipc.allocator import CLASSES, PAGE, Allocator

MIB = 1 << 20


@given(st.lists(st.one_of(st.integers(0, 3 * MIB), st.integers(0, 100)), max_size=60))
def test_random_allocations_and_frees_keep_the_arena_covered_once(steps: list[int]) -> None:
    allocator = Allocator(8 * MIB)
    live: dict[int, int] = {}
    for step in steps:
        if step % 3 == 0 and live:
            offset = sorted(live)[step % len(live)]
            free, before = allocator.size_bytes - allocator.used_bytes, live[offset]
            resized = allocator.resize(offset, step)
            assert resized is not None or step > before, "shorter is always possible"
            if resized is not None:
                assert step <= resized <= before + free
                assert all(offset + resized <= o or o + c <= offset for o, c in live.items() if o != offset)
                live[offset] = resized
        elif step <= 100 and live:
            offset = sorted(live)[step % len(live)]
            allocator.free(offset)
            del live[offset]
        else:
            try:
                offset, capacity = allocator.allocate(step)
            except ArenaExhausted:
                continue
            assert capacity >= step
            assert offset % PAGE == 0
            assert all(offset + capacity <= o or o + c <= offset for o, c in live.items())
            live[offset] = capacity
        allocator.check_integrity()
        assert allocator.used_bytes == sum(live.values())
    for offset in live:
        allocator.free(offset)
    assert allocator.allocate(8 * MIB) == (0, 8 * MIB)


def test_small_requests_are_rounded_up_to_their_class() -> None:
    allocator = Allocator(64 * MIB)
    assert [allocator.allocate(size)[1] for size in CLASSES] == list(CLASSES)
    assert allocator.allocate(PAGE + 1)[1] == 16 << 10


def test_a_large_request_takes_whole_pages_and_no_more() -> None:
    allocator = Allocator(64 * MIB)
    assert allocator.allocate(5 * MIB + 1)[1] == 5 * MIB + PAGE


def test_a_run_grows_into_the_free_memory_behind_it_and_gives_it_back() -> None:
    allocator = Allocator(16 * MIB)
    first, _ = allocator.allocate(2 * MIB)
    assert allocator.resize(first, 8 * MIB) == 8 * MIB
    second, _ = allocator.allocate(8 * MIB)
    assert allocator.resize(first, 8 * MIB + 1) is None
    allocator.free(second)
    assert allocator.resize(first, 16 * MIB) == 16 * MIB
    assert allocator.resize(first, MIB + 1) == MIB + PAGE
    allocator.check_integrity()
    assert allocator.used_bytes == MIB + PAGE


def test_a_slot_of_a_class_stays_as_long_as_it_is() -> None:
    allocator = Allocator(16 * MIB)
    offset, _ = allocator.allocate(60_000)
    assert allocator.resize(offset, 1) == 64 << 10
    assert allocator.resize(offset, (64 << 10) + 1) is None


def test_large_ranges_that_are_freed_are_used_again_before_others() -> None:
    """Their pages are mapped already in the processes that used them: no range is touched for the first time while an
    earlier one is free."""
    allocator = Allocator(64 * MIB)
    held, seen = [allocator.allocate(10 * MIB)[0]], set[int]()
    for _ in range(40):
        held.append(allocator.allocate(10 * MIB)[0])
        allocator.free(held.pop(0))
        seen.update(held)
    assert len(seen) == 2, "as many as are ever held at once"


def test_an_arena_smaller_than_a_span_still_serves_single_slots() -> None:
    allocator = Allocator(3 * PAGE)
    offsets = {allocator.allocate(1)[0] for _ in range(3)}
    assert offsets == {0, PAGE, 2 * PAGE}
    with pytest.raises(ArenaExhausted):
        allocator.allocate(1)
    allocator.check_integrity()


def test_empty_spans_are_given_back_when_a_large_request_needs_them() -> None:
    allocator = Allocator(8 * MIB)
    for offset, _ in [allocator.allocate(size) for size in CLASSES]:
        allocator.free(offset)
    assert allocator.allocate(8 * MIB)[1] == 8 * MIB


def test_freeing_twice_is_an_error() -> None:
    allocator = Allocator(MIB)
    offset, _ = allocator.allocate(1)
    allocator.free(offset)
    with pytest.raises(KeyError):
        allocator.free(offset)


def test_stats_tell_use_and_high_water_per_class() -> None:
    allocator = Allocator(8 * MIB)
    first, _ = allocator.allocate(100)
    allocator.allocate(100)
    allocator.free(first)
    by_class = {stats.slot_bytes: stats for stats in allocator.stats()}
    assert by_class[PAGE].used_bytes == PAGE
    assert by_class[PAGE].high_water_bytes == 2 * PAGE
    assert sum(stats.used_bytes + stats.free_bytes for stats in allocator.stats()) == 8 * MIB
