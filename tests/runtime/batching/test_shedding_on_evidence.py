"""Nobody is refused on a guess: only runs of that size and shape say that an answer would be late. Simulated clock."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from podium.batching.backlog import Backlog
from podium.batching.layouts import layout
from podium.batching.policy import BatchPolicy
from podium.batching.queue import BatchQueue, Waiting
from podium.batching.service import EVIDENCE_S, ServiceTime, ServiceTimes
from podium.batching.sizing import SizeCap
from podium.errors import DeadlineExceeded, PodiumError
from podium.ipc.tensor import Tensor

LOOP = asyncio.new_event_loop()
LOOP.close()
TIMEOUT_S = 5.0
LARGE = 4096


@dataclass
class Simulated:
    """A model of one worker, and the clock that it runs on. `run_s`: what a run over so many rows really takes."""

    run_s: Callable[[int], float]
    now: float = 0.0
    dropped: list[Waiting] = field(default_factory=list)

    def __post_init__(self) -> None:
        policy = BatchPolicy(SizeCap(LARGE))
        self.backlog = Backlog(BatchQueue(10_000), policy, lambda waiting, _: self.dropped.append(waiting))

    def a_request(self, rows: int = 1, width: int = 1, timeout_s: float = TIMEOUT_S) -> Waiting:
        inputs = {"x": Tensor.from_array(np.zeros((rows, width), np.float32))}
        count, bucket = layout(inputs)
        return Waiting("id", inputs, count, bucket, self.now + timeout_s, self.now, asyncio.Future(loop=LOOP))

    def refusal(self, waiting: Waiting) -> PodiumError | None:
        """Why it would be refused while the worker has something else in hand."""
        return self.backlog.refusal(waiting, self.now, workers=1, busy_s=0.0)

    def ask(self, rows: int = 1, width: int = 1) -> Waiting:
        waiting = self.a_request(rows, width)
        self.backlog.queue.put(waiting, lambda: 1.0)
        return waiting

    def run_all(self) -> list[Waiting]:
        """Runs batch after batch until nothing waits. Returns who was answered in time."""
        answered = []
        while batch := self.backlog.take(self.now, workers=1, is_idle=True):
            rows = sum(waiting.rows for waiting in batch)
            took = self.run_s(rows)
            self.now += took
            self.backlog.policy.service.observe(batch[0].bucket, rows, took, self.now)
            answered += [waiting for waiting in batch if self.now <= waiting.deadline]
        return answered

    def serve(self, rows: int = 1, width: int = 1) -> bool:
        """One request by itself: whether it had its answer in time."""
        waiting = self.ask(rows, width)
        return waiting in self.run_all()


def a_fast_model() -> Simulated:
    """2 ms for a row, and for 4,096 of them 6 ms."""
    return Simulated(lambda rows: 0.002 + 1e-6 * rows)


def a_slow_model() -> Simulated:
    """2 ms for a row, and for 4,096 of them 8 s."""
    return Simulated(lambda rows: 0.002 * rows)


def test_a_large_request_to_a_fast_model_is_answered_after_small_ones_alone_were_seen() -> None:
    model = a_fast_model()
    assert model.serve()
    large = model.a_request(LARGE)
    assert model.refusal(large) is None, "one run over one row says nothing of 4,096"
    assert model.serve(LARGE)
    assert model.dropped == []


def test_small_batches_of_different_sizes_do_not_condemn_a_large_request_either() -> None:
    model = a_slow_model()
    for rows in (1, 2, 4, 3):
        assert model.serve(rows)
    assert model.refusal(model.a_request(LARGE)) is None


def test_once_a_large_run_was_too_slow_its_like_are_refused_as_they_come() -> None:
    model = a_slow_model()
    model.serve()
    assert not model.serve(LARGE), "the first one finds out"
    assert isinstance(model.refusal(model.a_request(LARGE)), DeadlineExceeded)
    second = model.ask(LARGE)
    assert model.run_all() == []
    assert model.dropped == [second], "and are dropped before they cost a forward"
    assert model.refusal(model.a_request(1)) is None
    assert model.serve()


def test_evidence_ages_so_that_a_model_which_became_faster_is_found_out() -> None:
    model = a_slow_model()
    model.serve(LARGE)
    model.run_s = a_fast_model().run_s
    began = model.now
    while model.now - began <= EVIDENCE_S:
        assert isinstance(model.refusal(model.a_request(LARGE)), DeadlineExceeded)
        assert model.serve()
        model.now += 0.5
    assert model.serve()
    assert model.refusal(model.a_request(LARGE)) is None
    assert model.serve(LARGE)


def test_a_shape_that_was_never_run_is_not_refused_for_the_time_of_others() -> None:
    model = a_slow_model()
    model.serve(LARGE, width=1)
    assert isinstance(model.refusal(model.a_request(LARGE, width=1)), DeadlineExceeded)
    assert model.refusal(model.a_request(LARGE, width=2)) is None
    model.now += 0.5
    assert model.ask(LARGE, width=2) not in model.dropped
    model.run_all()
    assert model.dropped == []


def test_a_batch_that_grows_beyond_what_was_seen_is_not_cut_short_by_a_guess() -> None:
    model = a_fast_model()
    model.serve()
    many = [model.ask() for _ in range(3000)]
    batch = model.backlog.take(model.now, workers=1, is_idle=True)
    assert batch == many, "linear from one row it would be 6 s, and the last third would have to wait"


def test_a_run_beyond_the_evidence_says_nothing_of_how_busy_the_device_is() -> None:
    model = a_slow_model()
    model.backlog.policy.cap.configure(1000, None)
    model.serve()
    for _ in range(2000):
        model.ask()
    model.run_all()
    assert model.backlog.policy.stretch == pytest.approx(1.0, abs=0.01)


def test_nothing_is_expected_of_more_rows_than_were_seen_but_the_time_of_the_largest() -> None:
    service = ServiceTime()
    for rows in (1, 8, 4) * 5:
        service.observe(rows, 0.01 + 0.002 * rows, now=0.0)
    assert service.seconds(8) == pytest.approx(0.026, rel=0.01)
    assert service.seconds(100) == service.seconds(8)


def test_a_first_large_run_that_had_to_share_its_device_counts_as_it_was() -> None:
    times = ServiceTimes()
    times.observe((), 1, 0.001, now=0.0)
    times.observe((), LARGE, 4.0, now=1.0, credited=False)
    assert times.seconds((), LARGE) == pytest.approx(4.0, rel=0.05)
