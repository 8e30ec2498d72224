"""An idle worker waits for company only where that pays; every time here is given, none is measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.batching.policy import SILENCE, ArrivalGap, BatchPolicy, OpenBatch
from podium.batching.service import OUTLIER, ServiceTime, ServiceTimes
from podium.batching.sizing import BACK_OFF, WINDOW, SizeCap


def a_policy(*, delay_s: float = 0.01, gap_s: float | None = 0.001, fixed_s: float = 0.02) -> BatchPolicy:
    """A model whose forward takes `fixed_s` and 1 ms a row, asked every `gap_s`."""
    policy = BatchPolicy(SizeCap(8), delay_s)
    for rows in (1, 4, 8, 2) * 8:
        policy.service.observe((), rows, fixed_s + 0.001 * rows, now=0.0)
    if gap_s is not None:
        for tick in range(5):
            policy.arrivals.observe((tick - 4) * gap_s)
    return policy


def a_batch(rows: int = 1, arrived: float = 0.0, deadline: float = 100.0) -> OpenBatch:
    return OpenBatch(rows, arrived, deadline)


def test_it_waits_for_the_expected_companion_where_that_saves_more_than_it_costs() -> None:
    assert a_policy().wait_s(a_batch(), now=0.0) == pytest.approx(0.001)


def test_without_a_delay_setting_it_never_waits() -> None:
    assert a_policy(delay_s=0.0).wait_s(a_batch(), now=0.0) == 0


def test_a_lone_client_is_never_made_to_wait() -> None:
    assert a_policy(gap_s=None).wait_s(a_batch(), now=0.0) == 0
    assert a_policy(gap_s=0.5).wait_s(a_batch(), now=0.0) == 0


def test_a_full_batch_closes() -> None:
    assert a_policy().wait_s(a_batch(rows=8), now=0.0) == 0


def test_it_waits_no_longer_than_the_setting_since_the_first_arrival() -> None:
    assert a_policy().wait_s(a_batch(arrived=0.0), now=0.011) == 0
    assert a_policy().wait_s(a_batch(arrived=0.0), now=0.0096) == 0


def test_a_near_deadline_closes_the_batch() -> None:
    assert a_policy().wait_s(a_batch(deadline=0.015), now=0.0) == 0


def test_a_model_whose_time_is_all_per_row_gains_nothing_by_waiting() -> None:
    assert a_policy(fixed_s=0.0).wait_s(a_batch(), now=0.0) == 0


def test_service_time_is_learned_from_batches_of_different_sizes() -> None:
    service = ServiceTime()
    for rows in (1, 8, 3, 5) * 5:
        service.observe(rows, 0.01 + 0.002 * rows, now=0.0)
    assert service.fixed == pytest.approx(0.01, rel=0.01)
    assert service.per_row == pytest.approx(0.002, rel=0.01)
    assert service.seconds(4) == pytest.approx(0.018, rel=0.01)


def test_full_batches_alone_do_not_make_it_forget_what_a_small_one_takes() -> None:
    service = ServiceTime()
    for rows in (1, 32, 8, 16) * 5:
        service.observe(rows, 0.010 + 0.0003 * rows, now=0.0)
    for _ in range(500):
        service.observe(32, 0.010 + 0.0003 * 32, now=0.0)
    assert service.seconds(1) == pytest.approx(0.0103, rel=0.1)
    for _ in range(500):
        service.observe(32, 2 * (0.010 + 0.0003 * 32), now=0.0)
    assert service.seconds(1) == pytest.approx(2 * 0.0103, rel=0.1), "twice as slow, split as before"


def test_before_sizes_differed_all_time_is_taken_to_be_per_row() -> None:
    service = ServiceTime()
    for _ in range(20):
        service.observe(4, 0.02, now=0.0)
    assert service.fixed == pytest.approx(0)
    assert service.seconds(4) == pytest.approx(0.02)


def test_each_bucket_has_a_time_of_its_own_and_a_new_one_the_time_of_all() -> None:
    times = ServiceTimes()
    for _ in range(30):
        times.observe("short", 1, 0.01, now=0.0)
        times.observe("long", 1, 0.03, now=0.0)
    assert times.seconds("short", 1) == pytest.approx(0.01)
    assert times.seconds("long", 1) == pytest.approx(0.03)
    assert 0.01 < times.seconds("new", 1) < 0.03


def test_a_run_that_lost_its_credit_teaches_little() -> None:
    times = ServiceTimes()
    times.observe((), 1, 0.01, now=0.0)
    times.observe((), 1, 100.0, now=0.0, credited=False)
    assert times.seconds((), 1) <= 0.01 * OUTLIER


def test_a_breach_of_the_target_makes_batches_smaller_and_good_windows_larger_again() -> None:
    cap = SizeCap(100, target_s=0.1)
    cap.observe(100, [0.2] * 2)
    assert cap.rows == 100 * BACK_OFF
    cap.observe(90, [0.05] * WINDOW)
    assert cap.rows == 91
    cap.observe(5, [0.05] * WINDOW)
    assert cap.rows == 91, "no batch was full: nothing says that more would be wanted"
    cap.observe(91, [0.05] * (WINDOW - 1) + [0.2])
    assert cap.rows == 92, "one in a hundred may be late"


def test_batches_never_shrink_below_one_row_nor_grow_above_the_setting() -> None:
    cap = SizeCap(4, target_s=0.1)
    for _ in range(50):
        cap.observe(cap.rows, [1.0] * 10)
    assert cap.rows == 1
    for _ in range(50):
        cap.observe(cap.rows, [0.0] * WINDOW)
    assert cap.rows == 4


def test_without_a_target_latency_changes_nothing() -> None:
    cap = SizeCap(4)
    cap.observe(4, [1000.0] * 1000)
    assert cap.rows == 4


def test_the_size_at_which_memory_ended_is_remembered() -> None:
    cap = SizeCap(64, target_s=1.0)
    cap.ran_out_of_memory(48)
    assert cap.rows == 24
    for _ in range(100):
        cap.observe(24, [0.0] * WINDOW)
    assert cap.rows == 24
    cap.configure(32, 1.0)
    assert cap.rows == 24


def test_service_time_forgets_what_the_model_was_like_before() -> None:
    service = ServiceTime()
    for rows in (1, 8) * 20:
        service.observe(rows, 1.0, now=0.0)
    for rows in (1, 8) * 40:
        service.observe(rows, 0.1, now=0.0)
    assert service.seconds(4) == pytest.approx(0.1, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 64), st.floats(0, 10)), max_size=30), st.integers(0, 100))
def test_service_time_is_never_negative(samples: list[tuple[int, float]], rows: int) -> None:
    service = ServiceTime()
    for n, seconds in samples:
        service.observe(n, seconds, now=0.0)
    assert service.seconds(rows) >= 0


def test_the_arrival_gap_needs_two_arrivals() -> None:
    gap = ArrivalGap()
    gap.observe(5.0)
    assert gap.expected_s(5.0) is None
    gap.observe(5.5)
    assert gap.expected_s(5.5) == pytest.approx(0.5)


def test_a_silence_says_that_nobody_comes() -> None:
    policy = a_policy(gap_s=0.001)
    assert policy.wait_s(a_batch(), now=SILENCE * 0.001 * 0.9) > 0
    assert policy.wait_s(a_batch(), now=SILENCE * 0.001 * 1.1) == 0


def test_a_refused_client_is_told_a_time_within_bounds() -> None:
    assert a_policy().retry_after_s(waiting_rows=0, workers=1) == 1.0
    assert a_policy(fixed_s=10.0).retry_after_s(waiting_rows=10_000, workers=1) == 30.0
