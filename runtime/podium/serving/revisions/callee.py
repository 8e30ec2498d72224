"""`Callee`: what a step calls: workers of this pod, or a model that other pods serve."""

from collections.abc import Mapping
from typing import Protocol

from podium.ipc.tensor import Tensor


class Callee(Protocol):
    """A member as a step sees it."""

    async def infer(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float, priority: int = 0
    ) -> dict[str, Tensor]:
        """Outputs by name, leased: the caller releases each. Inputs stay the caller's. `deadline`: monotonic seconds.
        Raises PodiumError."""

    @property
    def streams(self) -> bool:
        """Whether it answers in chunks. Models of other pods do not."""
