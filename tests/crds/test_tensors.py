"""Tensor contracts: which edge carries which tensor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_crds.tensors import MAX_DIMS, DType, TensorSpec, mismatch

specs = st.builds(
    TensorSpec,
    name=st.just("x"),
    dtype=st.sampled_from(DType),
    shape=st.lists(st.integers(-1, 4), min_size=1, max_size=MAX_DIMS).map(tuple),
)


def spec(dtype: DType, *shape: int) -> TensorSpec:
    return TensorSpec(name="x", dtype=dtype, shape=shape)


@given(specs)
def test_a_tensor_feeds_itself(one: TensorSpec) -> None:
    assert mismatch(one, one) is None


@given(specs, specs)
def test_agreement_does_not_depend_on_the_direction(one: TensorSpec, other: TensorSpec) -> None:
    assert (mismatch(one, other) is None) == (mismatch(other, one) is None)


@given(specs)
def test_any_size_agrees_with_every_size(one: TensorSpec) -> None:
    assert mismatch(one, spec(one.dtype, *[-1] * len(one.shape))) is None


@pytest.mark.parametrize(
    ("produced", "consumed", "message"),
    [
        (spec(DType.FP32, -1), spec(DType.FP16, -1), "dtype FP32 does not match FP16"),
        (spec(DType.FP32, -1), spec(DType.FP32, -1, 1), "shape [-1] has 1 dimensions, expected 2"),
        (spec(DType.FP32, 1, 384), spec(DType.FP32, -1, 768), "dimension 1 is 384, expected 768"),
    ],
)
def test_a_difference_is_said_in_words(produced: TensorSpec, consumed: TensorSpec, message: str) -> None:
    assert mismatch(produced, consumed) == message
