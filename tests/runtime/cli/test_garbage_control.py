"""When full collections run."""

import gc
from collections.abc import Iterator

import pytest

from podium.telemetry.garbage import IDLE_INTERVAL_S, LONGEST_S, GarbageControl


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def garbage(clock: Clock) -> Iterator[GarbageControl]:
    control = GarbageControl(clock)
    control.start()
    yield control
    control.stop()


def full(garbage: GarbageControl) -> int:
    return sum(garbage.pauses[2].counts)


def test_full_collections_wait_for_an_idle_moment(garbage: GarbageControl, clock: Clock) -> None:
    clock.now = IDLE_INTERVAL_S
    garbage.tick(idle=False)
    assert full(garbage) == 0
    garbage.tick(idle=True)
    garbage.tick(idle=True)
    assert full(garbage) == 1


def test_under_endless_load_they_run_at_last(garbage: GarbageControl, clock: Clock) -> None:
    clock.now = LONGEST_S
    garbage.tick(idle=False)
    assert full(garbage) == 1


def test_the_collector_is_given_back_as_it_was() -> None:
    before = gc.get_threshold(), len(gc.callbacks)
    control = GarbageControl()
    control.start()
    assert gc.get_freeze_count() > 0
    control.stop()
    assert (gc.get_threshold(), len(gc.callbacks)) == before
