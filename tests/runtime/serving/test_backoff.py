"""How long a dead worker waits, and when its deaths are a crash loop."""

import pytest

from podium.serving.workers.backoff import CRASH_LOOP_FAILURES, MAX_BACKOFF_S, STABLE_AFTER_S, Backoff


def after(*lives: float | None) -> Backoff:
    backoff = Backoff()
    for lived_s in lives:
        backoff.note_end(lived_s)
    return backoff


def test_the_first_death_is_followed_by_a_start_at_once() -> None:
    assert after(5.0).delay_s(0.99) == 0


def test_delays_double_up_to_the_cap() -> None:
    longest = [after(*[None] * failures).delay_s(1.0) for failures in range(2, 14)]
    assert longest[:3] == [0.4, 0.8, 1.6]
    assert longest == sorted(longest)
    assert longest[-1] == MAX_BACKOFF_S
    assert after(*[None] * 500).delay_s(1.0) == MAX_BACKOFF_S


@pytest.mark.parametrize("failures", [2, 5, 20])
def test_chance_spreads_restarts_over_half_of_the_delay(failures: int) -> None:
    backoff = after(*[None] * failures)
    assert backoff.delay_s(0.0) == backoff.delay_s(1.0) / 2
    assert backoff.delay_s(0.0) < backoff.delay_s(0.3) < backoff.delay_s(0.9)


def test_deaths_in_a_row_are_a_crash_loop_and_a_stable_life_ends_it() -> None:
    assert not after(*[1.0] * (CRASH_LOOP_FAILURES - 1)).is_crash_loop
    assert after(*[1.0] * CRASH_LOOP_FAILURES).is_crash_loop
    assert after(None, 1.0, None).is_crash_loop
    assert not after(None, None, None, None, STABLE_AFTER_S + 1).is_crash_loop
    assert after(None, None, None, STABLE_AFTER_S).is_crash_loop
