"""Requests wait in lines of equal shape, the most urgent first, and leave when nobody waits for them."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.batching.queue import BatchQueue, Waiting, layout
from podium.errors import QueueFull
from podium.ipc.tensor import Tensor


def a_request(rows: int = 1, width: int = 4, deadline: float = 10.0, arrived: float = 0.0) -> Waiting:
    inputs = {"x": Tensor.from_array(np.zeros((rows, width), np.float32))}
    count, bucket = layout(inputs)
    loop = asyncio.new_event_loop()
    loop.close()
    return Waiting("id", inputs, count, bucket, deadline, arrived, asyncio.Future(loop=loop))


def queue_of(*requests: Waiting, max_size: int = 100) -> BatchQueue:
    queue = BatchQueue(max_size)
    for request in requests:
        queue.put(request, 1.0)
    return queue


def take(queue: BatchQueue, max_rows: int) -> list[Waiting]:
    """A batch from the most urgent line."""
    heads = queue.heads()
    return queue.take(heads[0], max_rows) if heads else []


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


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    queue = queue_of(a_request(), a_request(), max_size=2)
    with pytest.raises(QueueFull) as refused:
        queue.put(a_request(), 2.5)
    assert refused.value.retry_after_s == 2.5
    assert len(queue) == 2


def test_a_request_that_was_taken_may_come_back_although_the_queue_is_full() -> None:
    queue = queue_of(a_request(), max_size=1)
    (taken,) = take(queue, 1)
    queue.put(a_request(), 1.0)
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
            queue.put(request, 1.0)
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
        heads = [head.deadline for head in queue.heads()]
        assert heads == sorted(heads)
        assert heads[:1] == sorted(request.deadline for request in inside)[:1]
    assert sorted(map(id, queue.drain())) == sorted(map(id, inside))
    assert len(queue) == 0
