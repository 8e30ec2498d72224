"""An idle worker waits for company only where that pays; every time here is given, none is measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.batching.policy import ArrivalGap, BatchPolicy, OpenBatch, ServiceTime


def a_policy(*, delay_s: float = 0.01, gap_s: float | None = 0.001, fixed_s: float = 0.02) -> BatchPolicy:
    """A model whose forward takes `fixed_s` and 1 ms a row, asked every `gap_s`."""
    policy = BatchPolicy(max_rows=8, max_delay_s=delay_s)
    for rows in (1, 4, 8, 2):
        policy.service.observe(rows, fixed_s + 0.001 * rows)
    if gap_s is not None:
        for tick in range(5):
            policy.arrivals.observe(tick * gap_s)
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
    for rows in (1, 8, 3, 5):
        service.observe(rows, 0.01 + 0.002 * rows)
    fixed, per_row = service.line()
    assert fixed == pytest.approx(0.01)
    assert per_row == pytest.approx(0.002)
    assert service.seconds(10) == pytest.approx(0.03)


def test_service_time_forgets_what_the_model_was_like_before() -> None:
    service = ServiceTime()
    for rows in (1, 8) * 20:
        service.observe(rows, 1.0)
    for rows in (1, 8) * 40:
        service.observe(rows, 0.1)
    assert service.seconds(4) == pytest.approx(0.1, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 64), st.floats(0, 10)), max_size=30), st.integers(0, 100))
def test_service_time_is_never_negative(samples: list[tuple[int, float]], rows: int) -> None:
    service = ServiceTime()
    for n, seconds in samples:
        service.observe(n, seconds)
    assert service.seconds(rows) >= 0


def test_the_arrival_gap_needs_two_arrivals() -> None:
    gap = ArrivalGap()
    gap.observe(5.0)
    assert gap.mean_s is None
    gap.observe(5.5)
    assert gap.mean_s == pytest.approx(0.5)


def test_a_refused_client_is_told_a_time_within_bounds() -> None:
    assert a_policy().retry_after_s(waiting_rows=0, workers=1) == 1.0
    assert a_policy(fixed_s=10.0).retry_after_s(waiting_rows=10_000, workers=1) == 30.0


def test_a_request_that_cannot_make_it_is_known_before_it_runs() -> None:
    policy = a_policy(fixed_s=0.1)
    assert policy.is_hopeless(deadline=1.04, now=1.0)
    assert not policy.is_hopeless(deadline=1.2, now=1.0)
    assert not BatchPolicy(8, 0.0).is_hopeless(deadline=1.0, now=1.0), "nothing was measured yet"
