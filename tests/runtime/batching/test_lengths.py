"""Which lengths batches have: counted by class, bounded, and only where lengths are free."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from podium.batching.lengths import MAX_KEPT, LengthsSeen
from podium.batching.queue import Waiting
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.tally import Closed, Tally
from podium_crds.assignment import Batching
from podium_crds.batching import PaddingSpec, RaggedSpec

PADDED = Batching(padding=(PaddingSpec(input="ids"), PaddingSpec(input="image", dimensions=(2, 3))))


def seen(batching: Batching = PADDED) -> LengthsSeen:
    made = LengthsSeen()
    made.tune(batching)
    return made


def a_request(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: Tensor.from_array(np.zeros(shape, np.int8)) for name, shape in shapes.items()}


def test_lengths_of_one_class_are_told_by_their_longest_and_the_commonest_class_first() -> None:
    lengths = seen()
    for length in (100, 10, 11, 10):
        lengths.saw(a_request(ids=(1, length)))
    assert lengths.commonest(8) == ({"ids": {1: 11}}, {"ids": {1: 100}})
    assert lengths.commonest(1) == ({"ids": {1: 11}},)


def test_several_inputs_and_dimensions_make_one_class_together() -> None:
    lengths = seen()
    lengths.saw(a_request(ids=(2, 7), image=(2, 3, 20, 30), other=(2, 9)))
    lengths.saw(a_request(ids=(2, 7), image=(2, 3, 20, 60)))
    assert {"ids": {1: 7}, "image": {2: 20, 3: 30}} in lengths.commonest(8)
    assert len(lengths.commonest(8)) == 2


def test_rows_that_are_joined_end_to_end_have_their_own_lengths() -> None:
    lengths = seen(Batching(ragged=RaggedSpec(inputs=("ids",), lengths_input="n")))
    lengths.saw(a_request(ids=(3, 50)))
    assert lengths.commonest(8) == ({"ids": {1: 50}},)


def test_nothing_is_counted_where_no_length_is_free_and_a_change_of_what_is_free_begins_anew() -> None:
    lengths = seen(Batching())
    lengths.saw(a_request(ids=(1, 50)))
    assert lengths.commonest(8) == ()
    lengths.tune(PADDED)
    lengths.saw(a_request(ids=(1, 50)))
    lengths.tune(PADDED.model_copy(update={"max_batch_size": 2}))
    assert lengths.commonest(8) == ({"ids": {1: 50}},)
    lengths.tune(Batching(padding=(PaddingSpec(input="ids", dimensions=(2,)),)))
    assert lengths.commonest(8) == ()


def test_a_client_that_sends_every_size_there_is_does_not_push_out_what_is_common() -> None:
    lengths = seen()
    for _ in range(3):
        lengths.saw(a_request(image=(1, 1, 7, 7)))
    for width in range(1, 70):
        for height in range(1, 70):
            lengths.saw(a_request(image=(1, 1, width, height)))
    assert len(lengths.commonest(10**6)) <= MAX_KEPT
    assert {"image": {2: 7, 3: 7}} in lengths.commonest(10**6)


@given(st.lists(st.integers(0, 10**6), max_size=50))
def test_each_length_is_within_the_class_of_one_that_is_told(given_lengths: list[int]) -> None:
    lengths = seen()
    for length in given_lengths:
        lengths.saw({"ids": Tensor.from_array(np.broadcast_to(np.int8(0), (0, length)))})
    told = [each["ids"][1] for each in lengths.commonest(MAX_KEPT)]
    assert all(any(length <= known <= max(length * 1.25 + 1, length) for known in told) for length in given_lengths)


def test_warming_up_at_a_length_does_not_count_as_its_use() -> None:
    tally = Tally()
    tally.lengths.tune(PADDED)
    waiting = Waiting("a", a_request(ids=(1, 10)), 1, (), 0.0, 0.0, None)  # type: ignore[arg-type]
    tally.dispatched([waiting], 1, 0.0, Closed.WARM_UP)
    assert tally.lengths.commonest(8) == ()
    tally.dispatched([waiting], 1, 0.0, Closed.IDLE)
    assert tally.lengths.commonest(8) == ({"ids": {1: 10}},)
