"""Ranges of the arena: size classes for small tensors, best fit of page runs for large ones. PURE: numbers, no memory.

Small requests are rounded up to a class and served from a span, a run of equal slots that the class took from the page
range; an empty span goes back when another part of the arena needs it. Larger requests take a run of pages themselves.
Segregated fits as in Wilson et al., "Dynamic Storage Allocation: A Survey", 1995. O(1) for a small request that finds a
span, O(log n) search and O(n) list shifts in the number of free runs otherwise.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from podium.errors import ArenaExhausted

PAGE = 4096
CLASSES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
"""Slot sizes of the classes, bytes. Anything above the last is a run of pages."""
SPAN_SLOTS = {4 << 10: 16, 16 << 10: 16, 64 << 10: 16, 256 << 10: 8, 1 << 20: 4}


@dataclass(frozen=True, slots=True)
class ClassStats:
    """Use of one size class, in bytes. `slot_bytes` is None for runs of pages."""

    slot_bytes: int | None
    used_bytes: int
    free_bytes: int
    high_water_bytes: int


@dataclass(slots=True, eq=False)
class _Span:
    """A run of equal slots. `free` holds offsets, last freed first out."""

    offset: int
    slot_bytes: int
    slots: int
    free: list[int]

    @property
    def nbytes(self) -> int:
        return self.slot_bytes * self.slots


@dataclass(slots=True)
class _Use:
    used: int = 0
    high: int = 0

    def add(self, nbytes: int) -> None:
        self.used += nbytes
        self.high = max(self.high, self.used)


class _PageRuns:
    """Free runs of pages, coalesced, with a best-fit search."""

    def __init__(self, size: int) -> None:
        self.by_offset: list[int] = [0] if size else []
        self.length: dict[int, int] = {0: size} if size else {}
        self.by_size: list[tuple[int, int]] = [(size, 0)] if size else []

    def take(self, nbytes: int) -> int | None:
        """Offset of the smallest run that holds `nbytes` (a multiple of PAGE); None where none does."""
        index = bisect_left(self.by_size, (nbytes, 0))
        if index == len(self.by_size):
            return None
        length, offset = self.by_size[index]
        self._remove(offset)
        if length > nbytes:
            self._insert(offset + nbytes, length - nbytes)
        return offset

    def take_at(self, offset: int, nbytes: int) -> bool:
        """Takes `nbytes` from the beginning of the free run at `offset`; False where none is there, or not as much."""
        length = self.length.get(offset, 0)
        if length < nbytes:
            return False
        self._remove(offset)
        if length > nbytes:
            self._insert(offset + nbytes, length - nbytes)
        return True

    def put(self, offset: int, nbytes: int) -> None:
        """Returns a run, joined with its free neighbours."""
        index = bisect_left(self.by_offset, offset)
        if index < len(self.by_offset) and self.by_offset[index] == offset + nbytes:
            follower = self.by_offset[index]
            nbytes += self.length[follower]
            self._remove(follower)
        if index > 0:
            leader = self.by_offset[index - 1]
            if leader + self.length[leader] == offset:
                nbytes += self.length[leader]
                offset = leader
                self._remove(leader)
        self._insert(offset, nbytes)

    def _insert(self, offset: int, nbytes: int) -> None:
        insort(self.by_offset, offset)
        self.length[offset] = nbytes
        insort(self.by_size, (nbytes, offset))

    def _remove(self, offset: int) -> None:
        self.by_offset.pop(bisect_left(self.by_offset, offset))
        self.by_size.pop(bisect_left(self.by_size, (self.length.pop(offset), offset)))


@dataclass(slots=True)
class Allocator:
    """Hands out disjoint ranges of `size_bytes`. Every range starts on a page."""

    size_bytes: int
    _runs: _PageRuns = field(init=False)
    _open: dict[int, list[_Span]] = field(init=False)
    """slot size → spans with a free slot."""
    _spans: dict[int, _Span] = field(init=False, default_factory=dict)
    """span offset → span, all of them."""
    _owner: dict[int, _Span | int] = field(init=False, default_factory=dict)
    """offset of each range in use → its span, or its own length where it is a run of pages."""
    _use: dict[int | None, _Use] = field(init=False)

    def __post_init__(self) -> None:
        if self.size_bytes < PAGE or self.size_bytes % PAGE:
            raise ValueError(f"an arena of {self.size_bytes} bytes: expected a positive multiple of {PAGE}")
        self._runs = _PageRuns(self.size_bytes)
        self._open = {slot_bytes: [] for slot_bytes in CLASSES}
        self._use = {key: _Use() for key in (*CLASSES, None)}

    def allocate(self, nbytes: int) -> tuple[int, int]:
        """Offset and capacity of a range of at least `nbytes`. Raises ArenaExhausted where none is free."""
        for slot_bytes in CLASSES:
            if nbytes <= slot_bytes:
                offset = self._slot(slot_bytes)
                if offset is not None:
                    return offset, slot_bytes
                break
        return self._run(max(PAGE, -(-nbytes // PAGE) * PAGE))

    def free(self, offset: int) -> None:
        """Returns a range. Raises KeyError for an offset that is not in use."""
        owner = self._owner.pop(offset)
        if isinstance(owner, int):
            self._use[None].used -= owner
            self._runs.put(offset, owner)
            return
        self._use[owner.slot_bytes].used -= owner.slot_bytes
        if not owner.free:
            self._open[owner.slot_bytes].append(owner)
        owner.free.append(offset)

    def resize(self, offset: int, nbytes: int) -> int | None:
        """The capacity of a range in use, made longer or shorter where it lies so that it holds `nbytes`; None where
        that cannot be, and nothing has changed. Raises KeyError for an offset that is not in use."""
        owner = self._owner[offset]
        if not isinstance(owner, int):
            return owner.slot_bytes if nbytes <= owner.slot_bytes else None
        wanted = max(PAGE, -(-nbytes // PAGE) * PAGE)
        if wanted > owner and not self._runs.take_at(offset + owner, wanted - owner):
            return None
        if wanted < owner:
            self._runs.put(offset + wanted, owner - wanted)
        self._owner[offset] = wanted
        self._use[None].add(wanted - owner)
        return wanted

    def stats(self) -> tuple[ClassStats, ...]:
        """Use per class; the free bytes of the page runs are what no class has taken."""
        free: dict[int | None, int] = dict.fromkeys((*CLASSES, None), 0)
        for span in self._spans.values():
            free[span.slot_bytes] += len(span.free) * span.slot_bytes
        free[None] = sum(self._runs.length.values())
        return tuple(ClassStats(key, use.used, free[key], use.high) for key, use in self._use.items())

    @property
    def used_bytes(self) -> int:
        """Bytes of all ranges in use, at their capacity."""
        return sum(use.used for use in self._use.values())

    def check_integrity(self) -> None:
        """Asserts that free runs, spans and runs in use cover the arena once, and that each slot is free or in use."""
        pieces = [(offset, length) for offset, length in self._runs.length.items()]
        pieces += [(span.offset, span.nbytes) for span in self._spans.values()]
        pieces += [(offset, owner) for offset, owner in self._owner.items() if isinstance(owner, int)]
        position = 0
        for offset, length in sorted(pieces):
            assert offset == position, f"bytes {position} to {offset} belong to nobody or to two"
            position += length
        assert position == self.size_bytes
        assert self._runs.by_offset == sorted(self._runs.length)
        assert self._runs.by_size == sorted((length, offset) for offset, length in self._runs.length.items())
        for span in self._spans.values():
            used = {offset for offset, owner in self._owner.items() if owner is span}
            every = {span.offset + index * span.slot_bytes for index in range(span.slots)}
            assert used.isdisjoint(span.free)
            assert used | set(span.free) == every
            assert len(span.free) == len(set(span.free))
            assert (span in self._open[span.slot_bytes]) == bool(span.free)

    def _slot(self, slot_bytes: int) -> int | None:
        spans = self._open[slot_bytes]
        if not spans and not self._grow(slot_bytes):
            return None
        span = spans[-1]
        offset = span.free.pop()
        if not span.free:
            spans.pop()
        self._owner[offset] = span
        self._use[slot_bytes].add(slot_bytes)
        return offset

    def _grow(self, slot_bytes: int) -> bool:
        slots = SPAN_SLOTS[slot_bytes]
        offset = self._runs.take(slot_bytes * slots)
        if offset is None:
            return False
        free = [offset + index * slot_bytes for index in reversed(range(slots))]
        span = _Span(offset, slot_bytes, slots, free)
        self._spans[offset] = span
        self._open[slot_bytes].append(span)
        return True

    def _run(self, nbytes: int) -> tuple[int, int]:
        offset = self._runs.take(nbytes)
        if offset is None:
            self._reclaim()
            offset = self._runs.take(nbytes)
        if offset is None:
            raise ArenaExhausted(f"the arena of {self.size_bytes} bytes has no free range of {nbytes} bytes")
        self._owner[offset] = nbytes
        self._use[None].add(nbytes)
        return offset, nbytes

    def _reclaim(self) -> None:
        """Gives every empty span back to the page runs."""
        for span in [span for span in self._spans.values() if len(span.free) == span.slots]:
            self._open[span.slot_bytes].remove(span)
            del self._spans[span.offset]
            self._runs.put(span.offset, span.nbytes)
