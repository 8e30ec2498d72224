"""Clients that ask again once they are answered share one batch, where a delay is allowed. Simulated clock."""

import asyncio
import heapq
import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from podium.batching.backlog import Backlog
from podium.batching.layouts import layout
from podium.batching.policy import BatchPolicy, Returns
from podium.batching.queue import BatchQueue, Waiting
from podium.batching.sizing import SizeCap
from podium.ipc.tensor import Tensor

LOOP = asyncio.new_event_loop()
LOOP.close()
ROWS = 32
FIXED_S, ROW_S = 0.010, 0.0003
BACK_S = 0.002
"""From an answer to the same client's next request, at most."""


@dataclass
class World:
    """One worker, and whoever asks."""

    max_delay_s: float
    now: float = 0.0
    waits: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    _arrivals: list[tuple[float, int]] = field(default_factory=list)
    _client_of: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = BatchPolicy(SizeCap(ROWS), self.max_delay_s)
        self.backlog = Backlog(BatchQueue(10_000), self.policy, lambda *_: None)
        self.dice = random.Random(3)

    def arrives(self, at: float, client: int = -1) -> None:
        """A request is on its way; of a client that asks again, if it is not -1."""
        heapq.heappush(self._arrivals, (at, client))

    def run(self, until: float) -> None:
        """Batch after batch."""
        while self.now < until:
            self._receive()
            batch = self.backlog.take(self.now, workers=1, is_idle=True)
            if batch:
                self._answer(batch)
                continue
            wake_s = self.backlog.wake_s(self.now) if self.backlog.waiting else None
            times = [self._arrivals[0][0]] if self._arrivals else []
            times += [self.now + wake_s] if wake_s is not None else []
            if not times:
                return
            self.now = max(self.now + 1e-6, min(times))

    def _receive(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self.now:
            at, client = heapq.heappop(self._arrivals)
            inputs = {"x": Tensor.from_array(np.zeros((1, 1), np.float32))}
            rows, bucket = layout(inputs)
            waiting = Waiting("id", inputs, rows, bucket, at + 5, at, asyncio.Future(loop=LOOP))
            self._client_of[id(waiting)] = client
            self.backlog.queue.put(waiting, lambda: 1.0)
            self.policy.arrivals.observe(at)
            self.policy.returns.came(at, self.max_delay_s)

    def _answer(self, batch: list[Waiting]) -> None:
        took = FIXED_S + ROW_S * len(batch)
        self.now += took
        self.sizes.append(len(batch))
        self.waits += [self.now - waiting.arrived for waiting in batch]
        self._receive()
        self.policy.service.observe(batch[0].bucket, len(batch), took, self.now)
        if self.max_delay_s:
            self.policy.returns.answered(len(batch), self.now)
        for waiting in batch:
            client = self._client_of.pop(id(waiting))
            if client >= 0:
                self.arrives(self.now + self.dice.uniform(0.2, 1) * BACK_S, client)


def closed_loop(clients: int, max_delay_s: float) -> World:
    world = World(max_delay_s)
    for client in range(clients):
        world.arrives(client * 0.001, client)
    world.run(20.0)
    return world


def test_clients_that_take_turns_come_together_and_all_are_answered_sooner() -> None:
    apart, together = closed_loop(ROWS, 0.0), closed_loop(ROWS, 0.005)
    assert np.mean(apart.sizes[50:]) < 0.6 * ROWS, "else there is nothing to gain here"
    assert np.mean(together.sizes[50:]) > 0.95 * ROWS
    assert len(together.waits) > 1.3 * len(apart.waits)
    assert np.percentile(together.waits[500:], 99) < np.percentile(apart.waits[500:], 50)


@pytest.mark.parametrize("clients", [3, 8])
def test_few_clients_share_a_batch_too(clients: int) -> None:
    assert np.mean(closed_loop(clients, 0.005).sizes[50:]) > 0.95 * clients


def test_what_a_larger_batch_would_save_is_not_guessed() -> None:
    """Two that take turns only ever make batches of one, which say nothing of the fixed part."""
    assert set(closed_loop(2, 0.005).sizes) == {1}


def test_a_lone_client_is_not_made_to_wait() -> None:
    assert max(closed_loop(1, 0.005).waits) == pytest.approx(FIXED_S + ROW_S)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_those_who_come_as_they_like_wait_no_longer_than_without_a_delay(share: float) -> None:
    """At a part of what full batches could, as a Poisson process."""

    def mean(max_delay_s: float) -> float:
        world, dice, at = World(max_delay_s), random.Random(5), 0.0
        while at < 20:
            at += dice.expovariate(share / (FIXED_S + ROW_S))
            world.arrives(at)
        world.run(20.0)
        return float(np.mean(world.waits))

    assert mean(0.005) <= 1.05 * mean(0.0)


def test_clients_that_take_longer_than_a_forward_costs_are_not_waited_for() -> None:
    returns = Returns()
    for turn in range(50):
        now = turn * 0.1
        returns.answered(8, now)
        for _ in range(8):
            returns.came(now + 0.009, 0.02)
    assert returns.share > 0.95
    assert not returns.pay(FIXED_S), "1.5 times 9 ms is more than 10"
    assert returns.pay(0.02)


def test_who_stops_asking_is_waited_for_only_a_few_times() -> None:
    world = closed_loop(ROWS, 0.005)
    assert world.policy.returns.share > 0.9
    world._arrivals.clear()
    start = world.now
    for number in range(40):
        world.arrives(start + 1 + number * 0.1)
    before = len(world.waits)
    world.run(start + 10)
    assert np.median(world.waits[before + 10 :]) == pytest.approx(FIXED_S + ROW_S)
