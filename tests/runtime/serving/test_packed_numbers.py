"""Short flat lists become tensors by struct: as numpy casts them, or not at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.ipc.tensor import NUMPY_DTYPES
from podium.serving.revisions.packing import Packing
from podium_crds.tensors import DType

LISTS = st.lists(st.one_of(st.integers(-(2**53), 2**53), st.floats(width=64, allow_nan=False)), max_size=20)


@given(data=LISTS, dtype=st.sampled_from([DType.FP16, DType.FP32, DType.FP64]))
def test_numbers_are_packed_as_numpy_casts_them(data: list[float], dtype: DType) -> None:
    packed = Packing(dtype, (len(data),)).pack(data)
    with np.errstate(over="ignore"):
        cast = np.array(data, dtype=np.float64).astype(NUMPY_DTYPES[dtype])
    if packed is None:
        assert np.isinf(cast).any(), "only what becomes infinite is left to numpy"
    else:
        assert packed == cast.tobytes()


@given(data=st.lists(st.integers(-(2**70), 2**70), max_size=20), dtype=st.sampled_from(sorted(NUMPY_DTYPES)))
def test_integers_out_of_range_are_not_packed(data: list[int], dtype: DType) -> None:
    kind = NUMPY_DTYPES[dtype].kind
    packed = Packing(dtype, (len(data),)).pack(data)
    if kind in "iu":
        bounds = np.iinfo(NUMPY_DTYPES[dtype])
        fits = all(bounds.min <= number <= bounds.max for number in data)
        assert (packed == np.array(data, NUMPY_DTYPES[dtype]).tobytes()) if fits else packed is None


@pytest.mark.parametrize("data", [[True], ["1"], [None], [[1]], (1,), [1, 2], "1", None])
def test_what_is_no_flat_list_of_that_many_numbers_is_left_to_the_checks(data: object) -> None:
    assert Packing(DType.FP32, (1,)).pack(data) is None


@given(
    data=st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.none()), max_size=8),
    dtype=st.sampled_from(sorted(DType)),
)
def test_where_no_boolean_can_be_the_types_need_not_be_looked_at(data: list[object], dtype: DType) -> None:
    packing = Packing(dtype, (len(data),))
    assert packing.pack(data, may_hold_booleans=False) == packing.pack(data)
