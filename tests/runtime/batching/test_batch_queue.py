"""Requests wait in lines of equal shape, the most urgent first, and leave when nobody waits for them."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.batching.layouts import layout
from podium.batching.queue import AGE_LIMIT_S, AGEING_S, DEFAULT_PRIORITY, BatchQueue, Caps, Waiting
from podium.errors import QueueFull
from podium.ipc.tensor import Tensor


def a_request(
    rows: int = 1, width: int = 4, deadline: float = 10.0, arrived: float = 0.0, priority: int = DEFAULT_PRIORITY
) -> Waiting:
    inputs = {"x": Tensor.from_array(np.zeros((rows, width), np.float32))}
    count, bucket = layout(inputs)
    loop = asyncio.new_event_loop()
    loop.close()
    return Waiting("id", inputs, count, bucket, deadline, arrived, asyncio.Future(loop=loop), priority)


def queue_of(*requests: Waiting, max_size: int = 100) -> BatchQueue:
    queue = BatchQueue(max_size)
    for request in requests:
        queue.put(request, lambda: 1.0)
    return queue


def heads_of(queue: BatchQueue, now: float = 0.0, needs_s: float = 0.0) -> list[Waiting]:
    return queue.heads(now, lambda _: needs_s)


def take(queue: BatchQueue, max_rows: int, now: float = 0.0) -> list[Waiting]:
    """A batch from the most urgent line."""
    heads = heads_of(queue, now)
    return queue.take(heads[0], Caps(max_rows), now) if heads else []


def test_requests_of_one_shape_share_a_batch_up_to_its_rows() -> None:
    requests = [a_request(rows=3), a_request(rows=3), a_request(rows=3)]
    queue = queue_of(*requests)
    assert take(queue, 8) == requests[:2]
    assert take(queue, 8) == requests[2:]
    assert take(queue, 8) == []


def test_ragged_shapes_never_share_a_batch() -> None:
    narrow, wide, narrow_too = a_request(width=2), a_request(width=3), a_request(width=2)
    queue = queue_of(narrow, wide, narrow_too)
    assert take(queue, 8) == [narrow, narrow_too]
    assert take(queue, 8) == [wide]


def test_the_line_with_the_earliest_deadline_is_served_first() -> None:
    late, soon = a_request(width=2, deadline=9), a_request(width=3, deadline=4)
    assert take(queue_of(late, soon), 8) == [soon]


def test_within_a_line_the_order_is_by_deadline_then_by_arrival() -> None:
    requests = [a_request(deadline=5), a_request(deadline=3), a_request(deadline=5)]
    assert take(queue_of(*requests), 8) == [requests[1], requests[0], requests[2]]


def test_the_more_urgent_priority_goes_first_whatever_the_deadlines() -> None:
    usual, urgent = a_request(deadline=1), a_request(deadline=9, priority=1)
    queue = queue_of(usual, urgent)
    assert take(queue, 1) == [urgent]
    assert take(queue, 8) == [usual]


def test_waiting_raises_the_priority_so_that_nobody_starves() -> None:
    patient = a_request(deadline=100, priority=9, arrived=0.0)
    queue = queue_of(patient)
    for second in range(20):
        queue.put(a_request(deadline=100, priority=5, arrived=second * AGEING_S), lambda: 1.0)
        (served,) = take(queue, 1, now=second * AGEING_S)
        if served is patient:
            break
    else:
        pytest.fail("it was never served")
    assert second == 4, "four steps make it an equal, and it was there first"


def test_the_line_that_is_latest_relative_to_its_slack_is_served_first() -> None:
    short = a_request(width=2, deadline=1.0, arrived=0.0)
    long = a_request(width=3, deadline=100.0, arrived=0.0)
    queue = queue_of(long, short)
    assert heads_of(queue, now=0.5)[0] is short


def test_a_line_with_a_far_deadline_is_late_once_it_is_old() -> None:
    old = a_request(width=2, deadline=1000.0, arrived=0.0)
    young = a_request(width=3, deadline=2 * AGE_LIMIT_S + 10, arrived=2 * AGE_LIMIT_S)
    queue = queue_of(young, old)
    assert heads_of(queue, now=2 * AGE_LIMIT_S + 0.1)[0] is old


def test_a_batch_holds_no_more_padded_elements_than_allowed() -> None:
    short, long, short_too = a_request(), a_request(), a_request()
    short.elements, long.elements, short_too.elements = 10, 30, 10
    queue = queue_of(short, long, short_too)
    assert queue.take(short, Caps(8, 60), 0.0) == [short, long], "two rows of 30"
    alone = a_request()
    alone.elements = 1000
    assert queue_of(alone).take(alone, Caps(8, 60), 0.0) == [alone], "one request goes whatever it is"


def test_a_batch_takes_no_more_bytes_than_there_is_room_for() -> None:
    requests = [a_request() for _ in range(4)]
    for request in requests:
        request.nbytes = 10
    queue = queue_of(*requests)
    assert queue.take(requests[0], Caps(8, None, 29), 0.0) == requests[:2]
    assert queue.take(requests[2], Caps(8, None, 5), 0.0) == [requests[2]], "one request goes whatever it is"
    assert queue.take(requests[3], Caps(8), 0.0) == [requests[3]]


def test_what_is_ahead_of_a_request_is_what_would_be_served_before_it() -> None:
    queue = queue_of(*(a_request(rows=2, deadline=deadline) for deadline in (1, 2, 3, 4)), a_request(priority=1))
    assert queue.rows_ahead(a_request(deadline=2.5)) == 5
    assert queue.rows_ahead(a_request(deadline=0.5)) == 1
    assert queue.rows_ahead(a_request(deadline=0.5, priority=9)) == 9


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    queue = queue_of(a_request(), a_request(), max_size=2)
    with pytest.raises(QueueFull) as refused:
        queue.put(a_request(), lambda: 2.5)
    assert refused.value.retry_after_s == 2.5
    assert len(queue) == 2


def test_a_request_that_was_taken_may_come_back_although_the_queue_is_full() -> None:
    queue = queue_of(a_request(), max_size=1)
    (taken,) = take(queue, 1)
    queue.put(a_request(), lambda: 1.0)
    queue.restore(taken)
    assert len(queue) == 2


def test_a_discarded_request_is_in_no_batch() -> None:
    first, second = a_request(), a_request()
    queue = queue_of(first, second)
    assert queue.discard(first)
    assert not queue.discard(first)
    assert take(queue, 8) == [second]
    assert queue.rows == 0


def test_a_suspect_of_killing_workers_runs_alone() -> None:
    suspect, other = a_request(deadline=1), a_request(deadline=2)
    suspect.deaths = 1
    queue = queue_of(suspect, other)
    assert take(queue, 8) == [suspect]
    queue = queue_of(a_request(deadline=0.5), other_suspect := a_request(deadline=1))
    other_suspect.deaths = 1
    assert len(take(queue, 8)) == 1


@pytest.mark.parametrize(
    "shapes",
    [{"a": (2, 3), "b": (1, 3)}, {"a": ()}, {"a": (2,), "b": ()}, {"a": (0, 3)}, {}],
    ids=str,
)
def test_inputs_without_common_rows_are_not_batched(shapes: dict[str, tuple[int, ...]]) -> None:
    _, bucket = layout({name: Tensor.from_array(np.zeros(shape, np.float32)) for name, shape in shapes.items()})
    assert bucket == ()


@given(
    st.lists(st.tuples(st.sampled_from(["put", "take", "discard"]), st.integers(1, 5), st.integers(1, 3)), max_size=60)
)
def test_counts_agree_with_what_is_in_the_queue(steps: list[tuple[str, int, int]]) -> None:
    queue = BatchQueue(20)
    inside: list[Waiting] = []
    for action, number, width in steps:
        if action == "put" and len(inside) < 20:
            request = a_request(rows=number, width=width, deadline=float(number))
            queue.put(request, lambda: 1.0)
            inside.append(request)
        elif action == "take":
            taken = take(queue, number)
            assert bool(taken) == bool(inside)
            assert len({request.bucket for request in taken}) <= 1
            assert len(taken) == 1 or sum(request.rows for request in taken) <= number
            inside = [request for request in inside if request not in taken]
        elif action == "discard" and inside:
            queue.discard(inside.pop(number % len(inside)))
        assert len(queue) == len(inside)
        assert queue.rows == sum(request.rows for request in inside)
        heads = [head.deadline for head in heads_of(queue)]
        assert heads == sorted(heads)
        assert heads[:1] == sorted(request.deadline for request in inside)[:1]
    assert sorted(map(id, queue.drain())) == sorted(map(id, inside))
    assert len(queue) == 0


def of_length(length: int, deadline: float = 10.0, arrived: float = 0.0) -> Waiting:
    """A request of a padded line, whose lengths differ by a quarter at most."""
    request = a_request(deadline=deadline, arrived=arrived)
    request.elements = length
    return request


def take_alike(queue: BatchQueue, rows: int, elements: int | None = None, hurried_before: float = 0.0) -> list[Waiting]:
    heads = heads_of(queue)
    return queue.take(heads[0], Caps(rows, elements, None, hurried_before), 0.0) if heads else []


def test_of_a_padded_line_those_of_the_head_s_length_go_first() -> None:
    requests = [of_length(length) for length in (100, 124, 101, 123, 102, 120)]
    assert [w.elements for w in take_alike(queue_of(*requests), 3)] == [100, 101, 102]


def test_nobody_is_passed_over_for_its_length_twice() -> None:
    queue = queue_of(of_length(100), of_length(124), of_length(101))
    assert [w.elements for w in take_alike(queue, 2)] == [100, 101]
    late = [of_length(100, deadline=1.0), of_length(100, deadline=2.0)]
    for request in late:
        queue.put(request, lambda: 1.0)
    assert [w.elements for w in take_alike(queue, 2)] == [100, 124]
    assert take_alike(queue, 2) == late[1:]


def test_who_is_in_a_hurry_is_not_passed_over_for_its_length() -> None:
    requests = [of_length(100, deadline=1.0), of_length(124, deadline=1.5), of_length(100), of_length(100)]
    assert take_alike(queue_of(*requests), 2, hurried_before=1.6) == requests[:2]


def test_lengths_do_not_matter_where_all_fit_into_one_batch() -> None:
    requests = [of_length(length) for length in (100, 124, 101)]
    assert take_alike(queue_of(*requests), 3) == requests


def test_where_elements_are_limited_like_lengths_make_room_for_more_rows() -> None:
    requests = [of_length(100), of_length(125), of_length(100), of_length(100)]
    assert [w.elements for w in take_alike(queue_of(*requests), 8, elements=300)] == [100, 100, 100]


def batches_of(lengths: list[int], taker: Callable[[BatchQueue, int], list[Waiting]]) -> list[list[int]]:
    """Lengths by batch of four."""
    queue = queue_of(*(of_length(length) for length in lengths))
    return [[waiting.elements for waiting in batch] for batch in iter(lambda: taker(queue, 4), [])]


@given(st.lists(st.integers(100, 124), min_size=1, max_size=60))
def test_sorting_a_padded_line_loses_nobody_and_takes_no_more_batches(lengths: list[int]) -> None:
    batches = batches_of(lengths, take_alike)
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    assert len(batches) == len(batches_of(lengths, take))


def test_sorting_a_padded_line_pads_much_less() -> None:
    def filled_up(batches: list[list[int]]) -> int:
        return sum(max(batch) - length for batch in batches for length in batch)

    lengths = [100 + 7 * turn % 25 for turn in range(50)]
    assert filled_up(batches_of(lengths, take_alike)) < 0.75 * filled_up(batches_of(lengths, take))
