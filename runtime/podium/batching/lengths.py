"""Which lengths the batches of a model have, where requests of different lengths share them. PURE.

A new version warms up at them: a kernel, a compiled graph or an allocator sees a length for the first time then, and
not with a request that waits for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from podium.batching.layouts import length_class
from podium.ipc.tensor import Tensor
from podium_crds.assignment import Batching

MAX_KEPT = 256
"""Classes that are counted; beyond them the rarer half is forgotten, since clients choose what they send."""

Lengths = Mapping[str, Mapping[int, int]]
"""Input → dimension → length."""


@dataclass(frozen=True, slots=True)
class InUse:
    """What batches of a model have at present, the commonest first."""

    rows: tuple[int, ...] = ()
    lengths: tuple[Lengths, ...] = ()


@dataclass(slots=True)
class _Class:
    batches: int
    longest: dict[str, dict[int, int]]


class LengthsSeen:
    """Counts batches by the class of their lengths (podium.batching.layouts), and keeps the longest of each."""

    def __init__(self) -> None:
        self._free: dict[str, tuple[int, ...]] = {}
        """Input → dimensions whose length is free within a batch."""
        self._seen: dict[tuple[tuple[str, int, int], ...], _Class] = {}

    def tune(self, batching: Batching) -> None:
        """What was counted is kept as long as the same dimensions are free."""
        free = {entry.input: entry.dimensions for entry in batching.padding}
        if batching.ragged is not None:
            free.update(dict.fromkeys(batching.ragged.inputs, (1,)))
        if free != self._free:
            self._free, self._seen = free, {}

    def saw(self, inputs: Mapping[str, Tensor]) -> None:
        """A batch goes to a worker; `inputs` of any of its requests: padded lengths are of one class in a batch."""
        if not self._free:
            return
        lengths = {
            name: {axis: inputs[name].shape[axis] for axis in axes}
            for name, axes in self._free.items()
            if name in inputs and len(inputs[name].shape) > max(axes)
        }
        key = tuple(
            (name, axis, length_class(length)) for name, axes in lengths.items() for axis, length in axes.items()
        )
        known = self._seen.get(key)
        if known is None:
            if len(self._seen) == MAX_KEPT:
                self._forget()
            self._seen[key] = _Class(1, lengths)
            return
        known.batches += 1
        for name, axes in lengths.items():
            for axis, length in axes.items():
                known.longest[name][axis] = max(known.longest[name][axis], length)

    def commonest(self, count: int) -> tuple[Lengths, ...]:
        """The longest lengths of so many classes, the commonest first."""
        found = self._by_batches()[:count]
        return tuple({name: dict(axes) for name, axes in each.longest.items()} for each in found)

    def _by_batches(self) -> list[_Class]:
        return sorted(self._seen.values(), key=lambda each: -each.batches)

    def _forget(self) -> None:
        least = self._by_batches()[MAX_KEPT // 2].batches
        kept = [(key, each) for key, each in self._seen.items() if each.batches >= least]
        self._seen = dict(kept[: MAX_KEPT // 2])
