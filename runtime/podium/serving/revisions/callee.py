"""`Callee`: what a step calls: workers of this pod, or a model that other pods serve."""

from collections.abc import Mapping
from typing import Protocol

from podium.ipc.tensor import Tensor
from podium.serving.dispatch.streamed import StreamedAnswer
from podium.telemetry.counting import StreamCounts


class Callee(Protocol):
    """A member as a step sees it."""

    async def infer(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float, priority: int = 0
    ) -> dict[str, Tensor]:
        """Outputs by name, leased: the caller releases each. Inputs stay the caller's. `deadline`: monotonic seconds.
        Raises PodiumError."""

    @property
    def streams(self) -> bool:
        """Whether it answers in chunks. A model of other pods says so when it is asked; until then it may."""

    @property
    def surely_streams(self) -> bool:
        """Whether that is known."""

    def stream(
        self, inputs: Mapping[str, Tensor], *, request_id: str, deadline: float, counts: StreamCounts
    ) -> StreamedAnswer:
        """An answer in chunks; the reader closes it. Inputs stay the caller's. Raises PodiumError."""
