"""What a worker group has done, as plain numbers: a batch adds to them once, a scrape or a report reads them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from podium.batching.lengths import LengthsSeen
from podium.batching.policy import BatchPolicy
from podium.batching.queue import Waiting
from podium.telemetry.histogram import Histogram

FRACTION_BOUNDS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Closed(StrEnum):
    """Why a batch was closed when it was."""

    FULL = "full"
    IDLE = "idle"
    """A worker was free."""
    TIMEOUT = "timeout"
    """It had waited for company long enough."""
    AHEAD = "ahead"
    """Handed over before the worker was free, so that it never pauses."""
    RETRY = "retry"
    """A part of a batch that had failed."""
    WARM_UP = "warm_up"
    """For one worker alone, before it is asked."""


def why_closed(batch: Sequence[Waiting], policy: BatchPolicy, now: float) -> Closed:
    """Of a batch for a worker that was free."""
    if sum([waiting.rows for waiting in batch]) >= policy.cap.rows:
        return Closed.FULL
    delay_s = policy.max_delay_s
    if delay_s and any(now - waiting.arrived >= delay_s for waiting in batch):
        return Closed.TIMEOUT
    return Closed.IDLE


class Shed(StrEnum):
    """Why a request was refused or dropped before it ran."""

    QUEUE_FULL = "queue_full"
    PREDICTED_LATE = "predicted_late"
    """As it came: too much waits before it."""
    HOPELESS = "hopeless"
    """As it came: the model takes longer than there is time."""
    EARLY_DROP = "early_drop"
    """As its batch closed."""
    EXPIRED = "expired"
    """Its deadline passed in the queue."""


@dataclass(slots=True)
class Copies:
    """Tensors that were copied on their way, and their bytes: to form batches, and to store what a model returned."""

    gathers: int = 0
    gathered_bytes: int = 0
    stores: int = 0
    stored_bytes: int = 0

    def gathered(self, tensors: int, nbytes: int) -> None:
        """Inputs of one batch were copied."""
        self.gathers += tensors
        self.gathered_bytes += nbytes

    def stored(self, tensors: int, nbytes: int) -> None:
        """Outputs of one batch were copied."""
        self.stores += tensors
        self.stored_bytes += nbytes


@dataclass(slots=True)
class Tally:
    """Since the group's start."""

    requests: int = 0
    failures: int = 0
    """Requests that ended in an error of the model or the worker."""
    cancels: int = 0
    """Requests whose client left before the answer."""
    copies: Copies = field(default_factory=Copies)
    run_seconds: float = 0.0
    """Time workers spent in the model."""
    real_elements: int = 0
    padded_elements: int = 0
    """Elements of padded inputs as requests brought them, and as the model got them."""
    batch_sizes: Counter[int] = field(default_factory=Counter)
    """Rows → number of batches of that size."""
    lengths: LengthsSeen = field(default_factory=LengthsSeen)
    """Of batches whose requests may differ in length."""
    closed: Counter[Closed] = field(default_factory=Counter)
    shed: Counter[Shed] = field(default_factory=Counter)
    fill: Histogram = field(default_factory=lambda: Histogram(FRACTION_BOUNDS))
    """Rows of a batch as a part of what it might have had."""
    queue_s: Histogram = field(default_factory=Histogram)
    """Of each request, from its arrival to its dispatch."""
    gather_s: Histogram = field(default_factory=Histogram)
    """Of each batch: forming its inputs."""
    infer_s: Histogram = field(default_factory=Histogram)
    """Of each batch: in the model."""
    hand_off_s: Histogram = field(default_factory=Histogram)
    """Of each batch that went to a free worker: to it and back, without its time in the model."""
    output_s: Histogram = field(default_factory=Histogram)
    """Of each batch: reading and splitting its outputs."""

    def dispatched(self, batch: Sequence[Waiting], rows: int, now: float, why: Closed) -> None:
        """A batch went to a worker."""
        self.batch_sizes[rows] += 1
        self.closed[why] += 1
        if why is not Closed.WARM_UP:
            self.lengths.saw(batch[0].inputs)
        self.queue_s.add_all([now - waiting.arrived for waiting in batch])
