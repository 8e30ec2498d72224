"""What an overloaded model takes it answers in time, however uneven its runs are. Simulated clock."""

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from podium.batching.backlog import Backlog
from podium.batching.layouts import layout
from podium.batching.policy import BatchPolicy, Slip
from podium.batching.queue import BatchQueue, Waiting
from podium.batching.sizing import SizeCap
from podium.errors import DeadlineExceeded
from podium.ipc.tensor import Tensor

LOOP = asyncio.new_event_loop()
LOOP.close()
ROWS = 32
TURN_S = 0.02
"""Of a full batch, on average."""
TIMEOUT_S = 0.25
SWING_S = 4.0


@dataclass
class Overloaded:
    """One worker with the batch that it runs and the one behind it, asked for twice what it can."""

    run_s: Callable[[], float]
    now: float = 0.0
    taken: int = 0
    in_time: int = 0
    late: int = 0
    dropped: list[Waiting] = field(default_factory=list)
    _hands: list[tuple[list[Waiting], float]] = field(default_factory=list)
    """Batches with when they are expected to end."""

    def __post_init__(self) -> None:
        self.backlog = Backlog(
            BatchQueue(10_000), BatchPolicy(SizeCap(ROWS)), lambda waiting, _: self.dropped.append(waiting)
        )

    def run(self, seconds: float) -> None:
        """Arrivals at an even rate; each batch is handed over while the one before it runs."""
        gap = TURN_S / ROWS / 2
        ends, began = 0.0, 0.0
        arrivals: Iterator[float] = (number * gap for number in range(int(seconds / gap)))
        for arrived in arrivals:
            while self._hands and ends <= arrived:
                self.now = ends
                batch, _ = self._hands.pop(0)
                self._answer(batch, ends - began)
                self._fill()
                began, ends = self.now, self.now + self.run_s()
            self.now = arrived
            self._offer()
            if not self._hands:
                self._fill()
                began, ends = self.now, self.now + self.run_s()

    def _offer(self) -> None:
        inputs = {"x": Tensor.from_array(np.zeros((1, 1), np.float32))}
        rows, bucket = layout(inputs)
        waiting = Waiting("id", inputs, rows, bucket, self.now + TIMEOUT_S, self.now, asyncio.Future(loop=LOOP))
        busy_s = max(0.0, self._hands[-1][1] - self.now) if self._hands else 0.0
        if self._hands and self.backlog.refusal(waiting, self.now, 1, busy_s) is not None:
            return
        self.taken += 1
        self.backlog.queue.put(waiting, lambda: 1.0)

    def _fill(self) -> None:
        while len(self._hands) < 2:
            begins_s = max(0.0, self._hands[-1][1] - self.now) if self._hands else 0.0
            batch = self.backlog.take(self.now, workers=1, is_idle=not self._hands, begins_s=begins_s)
            if not batch:
                return
            expected_s = self.backlog.policy.service.seconds(batch[0].bucket, len(batch))
            self._hands.append((batch, self.now + begins_s + expected_s))

    def _answer(self, batch: list[Waiting], took: float) -> None:
        policy = self.backlog.policy
        policy.service.observe(batch[0].bucket, len(batch), took, self.now)
        if batch[-1].expected_at:
            policy.slip.observe(self.now - batch[-1].expected_at)
        answered = sum(self.now <= waiting.deadline for waiting in batch)
        self.in_time += answered
        self.late += len(batch) - answered


@pytest.mark.parametrize("uneven", [0.0, 0.3, 0.7])
def test_what_is_taken_is_answered_in_time_and_the_worker_never_starves(uneven: float) -> None:
    dice = random.Random(7)
    model = Overloaded(lambda: TURN_S * dice.uniform(1 - uneven, 1 + uneven))
    seconds = 20.0
    model.run(seconds)
    could = seconds / TURN_S * ROWS
    assert model.in_time >= 0.95 * could, "capacity was given away"
    assert model.late + len(model.dropped) <= 0.01 * model.taken, (model.late, len(model.dropped), model.taken)


@pytest.mark.parametrize("swing", [0.3, 0.5])
def test_a_model_whose_speed_swings_keeps_a_margin(swing: float) -> None:
    """As one does that shares its processor."""
    model = Overloaded(lambda: TURN_S * (1 + swing * math.sin(2 * math.pi * model.now / SWING_S)))
    model.run(20.0)
    answered = model.in_time + model.late
    assert model.late + len(model.dropped) <= 0.01 * model.taken, (model.late, len(model.dropped), model.taken)
    assert model.in_time >= 0.95 * answered


def test_a_model_that_becomes_half_as_fast_loses_little_more_than_what_it_had_taken() -> None:
    """The queue of that moment was taken for another speed, and the new one is learned by some ten batches."""
    model = Overloaded(lambda: TURN_S if model.now < 10 else 2 * TURN_S)
    model.run(20.0)
    assert model.late + len(model.dropped) <= 2 * TIMEOUT_S / TURN_S * ROWS
    assert model.in_time >= 0.9 * (10 + 5) / TURN_S * ROWS


def test_a_batch_behind_another_is_judged_by_when_it_begins() -> None:
    model = Overloaded(lambda: TURN_S)
    model.run(5.0)
    model.backlog.drain()
    model.dropped.clear()
    model._offer()
    model.backlog.queue.put(model.backlog.queue.drain()[0], lambda: 1.0)
    at = model.now + TIMEOUT_S - 1.5 * TURN_S
    assert model.backlog.take(at, workers=1, is_idle=False, begins_s=TURN_S) == []
    assert len(model.dropped) == 1


def test_the_margin_is_all_there_may_be_until_anything_is_known_and_then_what_errors_ask_for() -> None:
    slip = Slip()
    assert slip.margin_s(0.04) == 0.04
    for _ in range(200):
        slip.observe(0.0)
    assert slip.margin_s(0.04) == pytest.approx(0, abs=1e-6)
    for _ in range(200):
        slip.observe(0.01)
    assert slip.margin_s(0.04) == pytest.approx(0.01, rel=0.01), "always late by as much"
    for _ in range(200):
        slip.observe(-0.01)
    assert slip.margin_s(0.04) == pytest.approx(0, abs=1e-6), "what comes too early needs no margin, and gives none"
    for number in range(200):
        slip.observe(0.01 if number % 2 else -0.01)
    assert 0.03 < slip.margin_s(1.0) < 0.05, "four deviations"


def test_what_would_begin_at_once_is_not_refused_for_a_margin() -> None:
    model = Overloaded(lambda: TURN_S)
    model.run(2.0)
    model.backlog.drain()
    for _ in range(100):
        model.backlog.policy.slip.observe(1.0)
    waiting = Waiting("id", {}, 1, (), model.now + 2 * TURN_S, model.now, asyncio.Future(loop=LOOP))
    refusal = model.backlog.refusal(waiting, model.now, 1, 0.0)
    assert refusal is None or isinstance(refusal, DeadlineExceeded)
    assert refusal is None
