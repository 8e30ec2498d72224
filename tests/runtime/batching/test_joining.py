"""Padded batches are filled up and cut back, ragged ones laid end to end, and each request gets its own again."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from podium.batching.joining import Joining, padding_of
from podium.batching.layouts import RATIO, Layouts, length_class
from podium.batching.queue import Waiting
from podium.errors import InvalidInput, ModelError
from podium.ipc.tensor import Tensor
from podium_crds.assignment import Batching
from podium_crds.batching import CroppedOutput, PaddingSpec, RaggedSpec

PADDED = Batching(
    padding=(PaddingSpec(input="ids", value="-1", outputs=(CroppedOutput(name="logits"),)), PaddingSpec(input="mask"))
)
RAGGED = Batching(
    ragged=RaggedSpec(inputs=("ids",), offsets_input="offsets", lengths_input="lengths", outputs=("logits",))
)


def a_request(batching: Batching, **arrays: NDArray[np.generic]) -> Waiting:
    inputs = {name: Tensor.from_array(array) for name, array in arrays.items()}
    rows, bucket, elements = Layouts(batching).place(inputs)
    loop = asyncio.new_event_loop()
    loop.close()
    return Waiting("id", inputs, rows, bucket, 1.0, 0.0, asyncio.Future(loop=loop), elements=elements)


def tokens(rows: int, length: int, start: int = 0) -> NDArray[np.int64]:
    return np.arange(start, start + rows * length, dtype=np.int64).reshape(rows, length)


def joined(joining: Joining, batch: list[Waiting]) -> dict[str, NDArray[np.generic]]:
    parts = joining.parts(batch)
    return {name: Tensor(part.dtype, part.shape, memoryview(part.joined())).array() for name, part in parts.items()}


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_lengths_that_share_a_batch_differ_by_a_quarter_at_most(one: int, other: int) -> None:
    if length_class(one) == length_class(other):
        assert max(one, other) <= RATIO * min(one, other)
    if one <= other:
        assert length_class(one) <= length_class(other)


def test_shorter_requests_are_filled_up_with_the_declared_value() -> None:
    batch = [a_request(PADDED, ids=tokens(n, length), mask=np.ones((n, length))) for n, length in ((1, 19), (2, 17))]
    assert batch[0].bucket == batch[1].bucket
    whole = joined(Joining(PADDED), batch)
    assert whole["ids"].shape == (3, 19)
    np.testing.assert_array_equal(whole["ids"][1:, :17], tokens(2, 17))
    assert (whole["ids"][1:, 17:] == -1).all()
    assert (whole["mask"][1:, 17:] == 0).all()
    assert padding_of(Joining(PADDED).parts(batch)) == (2 * (19 + 34), 2 * 57)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(16, 19)), min_size=1, max_size=5))
def test_outputs_as_long_as_a_padded_input_are_cut_back_to_each_request(shapes: list[tuple[int, int]]) -> None:
    batch = [a_request(PADDED, ids=tokens(rows, length, 100 * i)) for i, (rows, length) in enumerate(shapes)]
    whole = joined(Joining(PADDED), batch)["ids"]
    outputs = {
        "logits": Tensor.from_array(np.stack([whole, whole + 1], axis=-1)),
        "label": Tensor.from_array(whole[:, 0].copy()),
    }
    for waiting, share in zip(batch, Joining(PADDED).split(outputs, batch, batch), strict=True):
        ids = waiting.inputs["ids"].array()
        np.testing.assert_array_equal(share["logits"].array(), np.stack([ids, ids + 1], axis=-1))
        np.testing.assert_array_equal(share["label"].array(), ids[:, 0])


def test_those_that_the_model_failed_alone_have_no_rows_and_still_count_as_the_longest() -> None:
    batch = [a_request(PADDED, ids=tokens(1, length)) for length in (17, 19)]
    whole = joined(Joining(PADDED), batch)["ids"]
    (share,) = Joining(PADDED).split({"logits": Tensor.from_array(whole[:1].copy())}, batch[:1], batch)
    np.testing.assert_array_equal(share["logits"].array(), tokens(1, 17))


def test_an_output_that_is_not_as_long_as_declared_is_the_models_fault() -> None:
    batch = [a_request(PADDED, ids=tokens(1, length)) for length in (17, 19)]
    with pytest.raises(ModelError, match="expected 19 in dimension 1"):
        Joining(PADDED).split({"logits": Tensor.from_array(np.zeros((2, 5)))}, batch, batch)


def test_an_input_without_the_padded_dimension_is_refused() -> None:
    with pytest.raises(InvalidInput, match="dimension 1 is padded"):
        a_request(PADDED, ids=np.zeros(3, np.int64))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=5))
def test_ragged_rows_follow_each_other_and_come_back_whole(shapes: list[tuple[int, int]]) -> None:
    batch = [a_request(RAGGED, ids=tokens(rows, length, 100 * i)) for i, (rows, length) in enumerate(shapes)]
    assert len({waiting.bucket for waiting in batch}) == 1, "any lengths share a batch"
    whole = joined(Joining(RAGGED), batch)
    lengths = [length for rows, length in shapes for _ in range(rows)]
    assert whole["lengths"].tolist() == lengths
    assert whole["offsets"].tolist() == np.cumsum([0, *lengths]).tolist()
    np.testing.assert_array_equal(whole["ids"], np.concatenate([w.inputs["ids"].array().reshape(-1) for w in batch]))
    outputs = {
        "logits": Tensor.from_array(whole["ids"] * 2),
        "sums": Tensor.from_array(np.array([[length] for length in lengths])),
    }
    for waiting, share in zip(batch, Joining(RAGGED).split(outputs, batch, batch), strict=True):
        ids = waiting.inputs["ids"].array()
        np.testing.assert_array_equal(share["logits"].array(), ids * 2)
        assert share["sums"].array().tolist() == [[ids.shape[1]]] * ids.shape[0]


def test_a_ragged_output_of_another_length_is_the_models_fault() -> None:
    batch = [a_request(RAGGED, ids=tokens(1, 3)), a_request(RAGGED, ids=tokens(1, 2))]
    with pytest.raises(ModelError, match="expected 5 elements"):
        Joining(RAGGED).split({"logits": Tensor.from_array(np.zeros(4))}, batch, batch)
