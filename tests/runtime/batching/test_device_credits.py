"""Credits are neither lost nor made, nobody idles beside work, nobody starves; on a clock that only the test moves."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podium.batching.backlog import Backlog
from podium.batching.device import LOWEST_SHARE, OVERDUE_S, Device, Run, Share
from podium.batching.layouts import layout
from podium.batching.policy import BatchPolicy
from podium.batching.queue import BatchQueue, Waiting
from podium.batching.sizing import SizeCap
from podium.errors import DeadlineExceeded
from podium.ipc.tensor import Tensor

LOOP = asyncio.new_event_loop()
LOOP.close()


@dataclass
class Group:
    """A model with some workers, each run of which takes as long as it is told."""

    device: Device
    workers: int
    run_s: float
    backlog: Backlog
    share: Share | None = None
    running: list[tuple[Run, list[Waiting]]] = field(default_factory=list)
    dropped: list[Waiting] = field(default_factory=list)

    @classmethod
    def on(cls, device: Device, *, workers: int = 1, units: int = 1, weight: int = 100, run_s: float = 0.01) -> "Group":
        dropped: list[Waiting] = []
        backlog = Backlog(BatchQueue(10_000), BatchPolicy(SizeCap(4)), lambda w, _: dropped.append(w))
        group = cls(device, workers, run_s, backlog, dropped=dropped)
        group.share = device.join(group, units=units, weight=weight)
        return group

    def next_run_s(self, now: float) -> float | None:
        return self.backlog.next_run_s(now) if len(self.running) < self.workers else None

    def start_run(self, now: float) -> Run | None:
        batch = self.backlog.take(now, workers=self.workers, is_idle=not self.running)
        if not batch:
            return None
        assert self.share is not None
        run = self.device.hold(self.share, self.backlog.policy.service.seconds(batch[0].bucket, len(batch)), now)
        self.running.append((run, batch))
        return run

    def finish(self, index: int, now: float) -> float:
        """One run ends; returns its device time."""
        run, batch = self.running.pop(index)
        self.device.end(run, now)
        self.backlog.policy.service.observe(batch[0].bucket, len(batch), now - run.began, now, credited=run.is_credited)
        for waiting in batch:
            waiting.future.set_result({})
        return now - run.began

    def ask(self, now: float, deadline: float = 1e9, priority: int = 5) -> Waiting:
        inputs = {"x": Tensor.from_array(np.zeros((1, 1), np.float32))}
        rows, bucket = layout(inputs)
        waiting = Waiting("id", inputs, rows, bucket, deadline, now, asyncio.Future(loop=LOOP), priority)
        self.backlog.queue.put(waiting, lambda: 1.0)
        return waiting


def seconds_of_device(groups: list[Group], device: Device, total_s: float) -> list[float]:
    """Each group always has work; returns the time that each had on a device of one credit."""
    now, used = 0.0, Counter[int]()
    while now < total_s:
        for group in groups:
            while len(group.backlog.queue) < 8:
                group.ask(now)
        device.deal(now)
        index = next(i for i, group in enumerate(groups) if group.running)
        now += groups[index].run_s
        used[index] += groups[index].finish(0, now)  # type: ignore[assignment]
        device.check_integrity()
    return [float(used[index]) for index in range(len(groups))]


def test_groups_share_a_device_by_weight_however_long_their_runs_are() -> None:
    device = Device(1)
    groups = [Group.on(device, weight=300, run_s=0.002), Group.on(device, weight=100, run_s=0.05)]
    first, second = seconds_of_device(groups, device, 30.0)
    assert 2.6 < first / second < 3.4


def test_a_group_that_warms_up_takes_next_to_nothing_from_one_that_serves() -> None:
    device = Device(1)
    groups = [Group.on(device, run_s=0.01), Group.on(device, weight=LOWEST_SHARE, run_s=0.01)]
    serving, warming = seconds_of_device(groups, device, 20.0)
    assert 0 < warming < 0.03 * serving


def test_who_was_alone_on_a_device_owes_nothing_when_another_comes() -> None:
    device = Device(1)
    alone = Group.on(device)
    seconds_of_device([alone], device, 10.0)
    groups = [alone, Group.on(device)]
    first, second = seconds_of_device(groups, device, 1.0)
    assert 0.8 < first / second < 1.25


def test_a_run_of_many_threads_is_not_overtaken_for_ever_by_small_ones() -> None:
    device = Device(4)
    wide, narrow = Group.on(device, units=4), Group.on(device, workers=4)
    for _ in range(40):
        narrow.ask(0.0)
    device.deal(0.0)
    wide.ask(0.0)
    now = 0.0
    while not wide.running:
        now += 0.01
        narrow.finish(0, now)
        device.deal(now)
        device.check_integrity()
        assert now < 0.5, "it had no turn"


def test_a_run_that_takes_too_long_lends_its_credit_to_who_waits() -> None:
    device = Device(1)
    stuck, other = Group.on(device), Group.on(device)
    stuck.ask(0.0)
    device.deal(0.0)
    other.ask(0.0)
    device.deal(0.1)
    assert not other.running
    look_again = device.lend_overdue(0.1)
    assert look_again is not None
    assert look_again >= OVERDUE_S
    device.lend_overdue(look_again)
    device.deal(look_again)
    assert other.running
    stuck.finish(0, 10.0)
    device.check_integrity()


def test_a_deadline_that_the_batch_would_miss_is_dropped_as_it_closes() -> None:
    device = Device(1)
    group = Group.on(device, run_s=0.1)
    for _ in range(3):
        group.ask(0.0)
        device.deal(0.0)
        group.finish(0, 0.1)
    group.ask(1.0)
    device.deal(1.0)
    late, good = group.ask(1.0, deadline=1.05), group.ask(1.0)
    group.finish(0, 1.0)
    device.deal(1.0)
    assert group.dropped == [late]
    assert group.running[0][1] == [good]


def test_a_request_that_would_be_late_is_refused_as_it_comes_and_one_that_goes_first_is_not() -> None:
    device = Device(1)
    group = Group.on(device)
    bucket = group.ask(0.0, deadline=100.0).bucket
    for rows_s in (0.01, 0.02) * 10:
        group.backlog.policy.service.observe(bucket, 1 if rows_s == 0.01 else 4, rows_s, 0.0)
    for _ in range(40):
        group.ask(0.0, deadline=100.0)
    waiting = group.ask(0.0, deadline=0.1)
    assert group.backlog.refusal(waiting, 0.0, 1, 0.0) is None, "its deadline is the first"
    for _ in range(400):
        group.ask(0.0, deadline=0.05)
    assert group.backlog.refusal(waiting, 0.0, 1, 0.0) is not None
    hopeless = group.ask(0.0, deadline=0.001)
    assert isinstance(group.backlog.refusal(hopeless, 0.0, 1, 0.0), DeadlineExceeded)


class Devices(RuleBasedStateMachine):
    """Groups come, go, ask, run, hang and cancel in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.device = Device(3)
        self.groups: list[Group] = []

    @precondition(lambda self: len(self.groups) < 4)
    @rule(workers=st.integers(1, 3), units=st.integers(1, 5), weight=st.sampled_from([1, 50, 100, 1000]))
    def come(self, workers: int, units: int, weight: int) -> None:
        self.groups.append(Group.on(self.device, workers=workers, units=units, weight=weight))

    @precondition(lambda self: self.groups)
    @rule(which=st.integers(0, 3))
    def go(self, which: int) -> None:
        group = self.groups.pop(which % len(self.groups))
        assert group.share is not None
        self.device.leave(group.share)
        self.device.deal(self.now)

    @precondition(lambda self: self.groups)
    @rule(which=st.integers(0, 3), count=st.integers(1, 6), priority=st.integers(1, 9), patience=st.floats(0, 5))
    def ask(self, which: int, count: int, priority: int, patience: float) -> None:
        for _ in range(count):
            self.groups[which % len(self.groups)].ask(self.now, self.now + patience, priority)
        self.device.deal(self.now)

    @precondition(lambda self: any(group.running for group in self.groups))
    @rule(which=st.integers(0, 20), took=st.floats(0, 2))
    def finish(self, which: int, took: float) -> None:
        runs = [(group, index) for group in self.groups for index in range(len(group.running))]
        group, index = runs[which % len(runs)]
        self.now += took
        group.finish(index, self.now)
        self.device.deal(self.now)

    @precondition(lambda self: any(group.running for group in self.groups))
    @rule(which=st.integers(0, 20))
    def hand_over(self, which: int) -> None:
        runs = [(group, index) for group in self.groups for index in range(len(group.running))]
        group, index = runs[which % len(runs)]
        run, batch = group.running[index]
        group.running[index] = (self.device.hand_over(run, 0.01, self.now), batch)
        self.device.deal(self.now)

    @precondition(lambda self: any(len(group.backlog.queue) for group in self.groups))
    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        everyone = [(group, waiting) for group in self.groups for waiting in group.backlog.queue]
        group, waiting = everyone[which % len(everyone)]
        waiting.future.cancel()
        assert group.backlog.discard(waiting)
        self.device.deal(self.now)

    @rule(after=st.floats(0, 3))
    def lend(self, after: float) -> None:
        self.now += after
        self.device.lend_overdue(self.now)
        self.device.deal(self.now)

    @invariant()
    def credits_are_conserved(self) -> None:
        self.device.check_integrity()
        assert self.device.runs == sum(len(group.running) for group in self.groups)

    @invariant()
    def nobody_idles_beside_work(self) -> None:
        wanting = [group for group in self.groups if group.next_run_s(self.now) is not None]
        if wanting:
            assert self.device.free_units < max(g.share.units for g in wanting if g.share is not None)

    def teardown(self) -> None:
        """Nobody starves: with no more arrivals, everything that waits is run or was dropped as late."""
        for _ in range(2000):
            if not any(len(group.backlog.queue) or group.running for group in self.groups):
                break
            self.now += 0.01
            for group in self.groups:
                while group.running:
                    group.finish(0, self.now)
            self.device.deal(self.now)
        else:
            raise AssertionError("something waits for ever")
        assert self.device.free_units == self.device.units


TestDevices = Devices.TestCase
