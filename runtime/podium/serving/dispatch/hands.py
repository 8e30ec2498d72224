"""`RunningBatch` and what a worker holds: at most two batches, in the order they were given."""

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from podium.batching.batcher import GatheredInputs, GrantedSlot
from podium.batching.device import Run
from podium.batching.joining import Joining
from podium.batching.queue import Waiting
from podium.ipc.protocol import MAX_IN_HAND
from podium.ipc.tensor import Tensor
from podium.serving.workers.supervisor import Supervisor


@dataclass(slots=True, eq=False)
class RunningBatch:
    """A batch in a worker's hands."""

    number: int
    requests: list[Waiting]
    rows: int
    inputs: GatheredInputs
    grant: GrantedSlot | None
    joining: Joining
    """How its inputs were joined: settings may change while it runs."""
    expected_s: float
    began: float
    """Monotonic seconds: its dispatch, or the answer to the batch before it."""
    run: Run | None = None
    """The credit; None while it waits behind another one."""
    was_ahead: bool = False
    """It was handed over before the worker was free: no hand-off is in its time."""
    is_warm_up: bool = False
    hung_at: float | None = None
    """When it has made no progress for too long; None until it may have begun."""

    def live(self) -> list[Waiting]:
        """Requests that somebody still waits for."""
        return [waiting for waiting in self.requests if not waiting.future.done()]

    def stored_bytes(self, outputs: Collection[Tensor]) -> int:
        """What they took of the granted slot or of the message: those passed on lie in the slots of inputs."""
        own = self.grant.lease if self.grant is not None else None
        return sum([tensor.nbytes for tensor in outputs if tensor.lease is None or tensor.lease is own])

    def release(self, held: Collection[int] = ()) -> None:
        """Ends the worker's part in its slots but those whose generation is in `held`."""
        self.inputs.release(held)
        if self.grant is not None and self.grant.lease.slot.generation not in held:
            self.grant.lease.revoke()


@dataclass(slots=True)
class Hands:
    """Who holds which batches."""

    _batches: dict[Supervisor, deque[RunningBatch]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[RunningBatch]:
        for batches in self._batches.values():
            yield from batches

    def __len__(self) -> int:
        """Workers that hold something."""
        return len(self._batches)

    def __contains__(self, instance: Supervisor) -> bool:
        return instance in self._batches

    def items(self) -> Iterator[tuple[Supervisor, RunningBatch]]:
        """Every batch with its worker."""
        for instance, batches in self._batches.items():
            for batch in batches:
                yield instance, batch

    def first(self, instance: Supervisor) -> RunningBatch | None:
        """The batch that runs there."""
        batches = self._batches.get(instance)
        return batches[0] if batches else None

    def free_at(self) -> float:
        """When the first of those that hold something is expected to have answered all of it, monotonic seconds."""
        return min([_done_at(batches) for batches in self._batches.values()])

    def begins_s(self, instance: Supervisor, now: float) -> float:
        """In how many seconds a batch that is given to it now is expected to begin."""
        batches = self._batches.get(instance)
        return max(0.0, _done_at(batches) - now) if batches else 0.0

    def is_full(self, instance: Supervisor) -> bool:
        """True where another batch would be one too many."""
        return len(self._batches.get(instance, ())) >= MAX_IN_HAND

    def add(self, instance: Supervisor, batch: RunningBatch) -> None:
        """A batch was sent."""
        self._batches.setdefault(instance, deque()).append(batch)

    def pop(self, instance: Supervisor) -> RunningBatch:
        """The first one was answered."""
        batches = self._batches[instance]
        batch = batches.popleft()
        if not batches:
            del self._batches[instance]
        return batch

    def pop_all(self, instance: Supervisor) -> list[RunningBatch]:
        """The worker is gone."""
        return list(self._batches.pop(instance, ()))


def _done_at(batches: deque[RunningBatch]) -> float:
    return batches[0].began + sum([batch.expected_s for batch in batches])
