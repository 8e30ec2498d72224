"""Which GPU of a pod each worker gets, where members share GPUs by declared parts of one. Pure and exact."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class GpuDemand:
    """What one member wants: for each of its instances the same part of a GPU."""

    part: Fraction
    """Above 0, at most 1."""
    instances: int = 1

    @property
    def total(self) -> Fraction:
        """Of all instances."""
        return self.part * self.instances

    def __str__(self) -> str:
        return f"{float(self.part):g}" if self.instances == 1 else f"{self.instances} × {float(self.part):g}"


def packed(demands: Mapping[str, GpuDemand], gpus: int) -> dict[str, tuple[int, ...]] | None:
    """By member, the GPU (from 0) of each instance, none given more than it has; None where that is not found.

    First fit, the largest parts first (Johnson 1974), members of one size by name: the same demands have the same
    places in every pod, whatever order they are written in.
    """
    free = [Fraction(1)] * gpus
    places: dict[str, list[int]] = {name: [] for name in demands}
    for name, demand in sorted(demands.items(), key=lambda item: (-item[1].part, item[0])):
        for _ in range(demand.instances):
            found = next((gpu for gpu, left in enumerate(free) if left >= demand.part), None)
            if found is None:
                return None
            free[found] -= demand.part
            places[name].append(found)
    return {name: tuple(given) for name, given in places.items()}


def told(demands: Mapping[str, GpuDemand]) -> str:
    """`encoder 0.5, reranker 2 × 0.3`."""
    return ", ".join(f"{name} {demand}" for name, demand in sorted(demands.items()))
