"""Which worker of a pod holds which part of which GPU. The assignment says where each should go; this says what is
left, so that two revisions beside each other never hold more than there is."""

from collections.abc import Sequence
from dataclasses import dataclass

from podium.errors import WorkerLoadError
from podium_crds.assignment import Member
from podium_crds.reasons import Reason

WHOLE = 1.0 + 1e-6
"""Parts are sums of decimals."""


@dataclass(frozen=True, slots=True)
class GpuShare:
    """A part of a GPU that one worker holds, over all its lives. `GpuShares.release` it in the end."""

    device: str
    part: float
    holder: str


class GpuShares:
    """Used from one event loop."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = tuple(devices)
        self._held: list[GpuShare] = []

    def take(self, member: Member, index: int) -> GpuShare:
        """For instance `index` of a member that names a part: on the GPU that the assignment names, or, where others
        are still there, on the first that has room. Raises WorkerLoadError where none has."""
        assert member.gpu_fraction is not None, "asked for a part"
        planned = member.gpu_places[index : index + 1]
        wanted = [self._devices[place] for place in planned if place < len(self._devices)]
        for device in (*wanted, *self._devices):
            if self._taken(device) + member.gpu_fraction <= WHOLE:
                share = GpuShare(device, member.gpu_fraction, f"{member.name}-{index}")
                self._held.append(share)
                return share
        held = ", ".join(f"{share.holder} {share.part:g} of {share.device}" for share in self._held)
        raise WorkerLoadError(
            Reason.INSUFFICIENT_GPU,
            f"no GPU of this pod has {member.gpu_fraction:g} left for {member.name} ({held or 'the pod has none'}): "
            "the old version and the new do not fit beside each other; strategy Surge gives the new one its own pods",
        )

    def release(self, share: GpuShare) -> None:
        """The worker will not come back."""
        self._held = [held for held in self._held if held is not share]

    def _taken(self, device: str) -> float:
        return sum(share.part for share in self._held if share.device == device)
