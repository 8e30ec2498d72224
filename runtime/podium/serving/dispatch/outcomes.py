"""How requests end: with their share of an answer, with an error, or by being tried again."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from podium.batching.backlog import Backlog
from podium.batching.bisect import halves
from podium.batching.queue import Waiting
from podium.errors import (
    ArenaExhausted,
    ContractBreach,
    InvalidInput,
    ModelError,
    ModelOutOfMemory,
    PodiumError,
    PoisonedRequest,
    WorkerDied,
)
from podium.ipc.protocol import Failure, ItemError
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.hands import RunningBatch
from podium_crds.assignment import PURE_FORWARDS, Member

Outputs = dict[str, Tensor]


@dataclass(slots=True)
class Outcomes:
    """Decides for the requests of one group."""

    backlog: Backlog
    member: Callable[[], Member]
    """As it is tuned now."""

    def no_room(self, batch: Sequence[Waiting], error: PodiumError) -> None:
        """The arena holds less than the batch takes: its halves are tried, and a request alone fails."""
        if len(batch) == 1:
            self.fail(batch, error)
            return
        for half in halves(batch):
            self.backlog.run_again(half)

    def succeed(
        self, requests: Sequence[Waiting], shares: Sequence[Outputs], lease: Callable[[Outputs], Outputs]
    ) -> None:
        """Each request gets its share; who has left gets no lease."""
        for waiting, share in zip(requests, shares, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(lease(share))

    def fail_items(self, requests: Sequence[Waiting], errors: Sequence[ItemError]) -> list[Waiting]:
        """Fails those that the model failed one by one; returns the others."""
        failed = {error.index: error for error in errors if error.index < len(requests)}
        for index, error in failed.items():
            self.fail([requests[index]], (InvalidInput if error.refused else ModelError)(error.message))
        return [waiting for index, waiting in enumerate(requests) if index not in failed]

    def model_failed(self, running: RunningBatch, failure: Failure) -> None:
        """The model raised: alone it was this request; in company the bad one is looked for where that is allowed."""
        live = running.live()
        if failure.out_of_memory:
            self.backlog.policy.cap.ran_out_of_memory(running.rows)
        kind: type[PodiumError] = ModelOutOfMemory if failure.out_of_memory else ModelError
        if failure.no_room:
            kind = ArenaExhausted
        if failure.breach:
            self.fail(live, ContractBreach(failure.message))
        elif len(running.requests) == 1:
            self.fail(live, kind(failure.message))
        elif not self._may_run_again():
            hint = f"a batch of {len(running.requests)} requests failed; set idempotent to have the bad one found"
            self.fail(live, kind(f"{hint}: {failure.message}"))
        elif len(live) == 1:
            self.backlog.run_again(live)
        elif live:
            for half in halves(live):
                self.backlog.run_again(half)

    def worker_died(self, running: RunningBatch, what: str, *, begun: bool) -> None:
        """`begun`: the model may have worked on the batch."""
        if not begun:
            self.restore(running.live())
            return
        for waiting in running.live():
            self._bereave(waiting, what)

    def restore(self, requests: Sequence[Waiting]) -> None:
        """Back to the queue with those that somebody waits for."""
        for waiting in requests:
            if not waiting.future.done():
                self.backlog.queue.restore(waiting)

    def fail(self, requests: Sequence[Waiting], error: PodiumError) -> None:
        """Ends those that somebody waits for."""
        for waiting in requests:
            if not waiting.future.done():
                waiting.future.set_exception(error)

    def _bereave(self, waiting: Waiting, what: str) -> None:
        """Decides on a request that was begun by a worker that died."""
        waiting.deaths += 1
        if waiting.deaths >= 2:
            self.fail([waiting], PoisonedRequest(f"{what}, the second one with this request; it is not tried again"))
        elif self.member().idempotent:
            self.restore([waiting])
        else:
            self.fail([waiting], WorkerDied(f"{what} while it worked on the request", started=True))

    def _may_run_again(self) -> bool:
        member = self.member()
        return member.idempotent or member.engine.kind in PURE_FORWARDS


def disown(future: asyncio.Future[Outputs]) -> None:
    """Nobody reads this answer: outputs that are there, or came at the moment its reader left, are released."""
    if future.done() and not future.cancelled() and future.exception() is None:
        for tensor in future.result().values():
            tensor.release()
