"""An alarm that rings once, never early, and not at a time that was taken back."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.waiting import eventually

from podium.serving.workers.timer import PreciseTimer
from podium.telemetry.cpus import cpu_units


class Rung:
    """A timer and when it rang."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.timer = PreciseTimer(lambda: self.times.append(time.monotonic()))


@pytest_asyncio.fixture
async def rung() -> AsyncIterator[Rung]:
    rung = Rung()
    yield rung
    rung.timer.close()


async def test_it_rings_once_and_not_before_its_time(rung: Rung) -> None:
    at = time.monotonic() + 0.0003
    rung.timer.arm(at)
    await eventually(lambda: rung.times)
    assert rung.times[0] >= at
    assert rung.timer.at is None
    again = time.monotonic() + 0.001
    rung.timer.arm(again)
    await eventually(lambda: len(rung.times) == 2)
    assert rung.times[1] >= again


async def test_a_time_that_is_past_rings_at_once(rung: Rung) -> None:
    rung.timer.arm(time.monotonic() - 5)
    await eventually(lambda: rung.times)


async def test_only_the_last_time_that_was_set_counts(rung: Rung) -> None:
    rung.timer.arm(time.monotonic() - 1)
    rung.timer.arm(later := time.monotonic() + 0.02)
    await eventually(lambda: rung.times)
    assert len(rung.times) == 1
    assert rung.times[0] >= later
    rung.timer.arm(time.monotonic() - 1)
    rung.timer.arm(None)
    rung.timer.arm(last := time.monotonic() + 0.01)
    await eventually(lambda: len(rung.times) == 2)
    assert rung.times[1] >= last


async def test_a_closed_timer_leaves_no_descriptor(rung: Rung) -> None:
    def timers() -> int:
        # Of timers alone: what earlier tests left to the garbage collection may be closed at any moment.
        links = [fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        return links.count(Path("anon_inode:[timerfd]"))

    before = timers()
    rung.timer.arm(time.monotonic() + 100)
    assert timers() == before + 1
    rung.timer.close()
    assert timers() == before


@pytest.mark.parametrize(("text", "most"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", 10_000)])
def test_a_cpu_quota_limits_the_credits(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert 1 <= cpu_units(tmp_path) <= most


def test_a_quota_of_the_first_cgroup_version_counts_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_units(tmp_path) == 1
