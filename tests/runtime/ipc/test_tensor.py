"""Tensors are windows over bytes, and their arrays say the same as the bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from podium.errors import InvalidInput
from podium.ipc.tensor import NUMPY_DTYPES, Tensor, check_layout, element_ends
from podium_crds.tensors import DType


@given(st.sampled_from(sorted(NUMPY_DTYPES)), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
def test_an_array_comes_back_as_it_went_in(dtype: DType, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(NUMPY_DTYPES[dtype])
    tensor = Tensor.from_array(array)
    assert tensor.dtype is dtype
    assert tensor.shape == shape
    assert tensor.nbytes == array.nbytes
    np.testing.assert_array_equal(tensor.array(), array)
    check_layout(tensor.dtype, tensor.shape, tensor.nbytes)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_strings_are_encoded_with_their_lengths(elements: list[bytes]) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    tensor = Tensor.from_array(array)
    assert bytes(tensor.data) == b"".join(len(e).to_bytes(4, "little") + e for e in elements)
    assert tensor.array().tolist() == elements


def test_text_is_encoded_as_utf8() -> None:
    assert Tensor.from_array(np.array(["é"])).array().tolist() == ["é".encode()]


def test_a_transposed_or_big_endian_array_is_packed() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    tensor = Tensor.from_array(array)
    assert tensor.dtype is DType.INT32
    np.testing.assert_array_equal(tensor.array(), array)


def test_a_contiguous_array_is_not_copied() -> None:
    array = np.zeros(4, dtype=np.float32)
    tensor = Tensor.from_array(array)
    array[0] = 7
    assert tensor.array()[0] == 7


def test_complex_numbers_have_no_tensor_type() -> None:
    with pytest.raises(InvalidInput, match="complex"):
        Tensor.from_array(np.zeros(2, dtype=np.complex64))


@pytest.mark.parametrize("data", [b"\x01\x00\x00", b"\x05\x00\x00\x00ab", b"\x01\x00\x00\x00ab"])
def test_string_data_that_does_not_add_up_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        element_ends(memoryview(data), 1)


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [
        (DType.FP32, (2, 2), 15),
        (DType.FP32, (-1, 2), 8),
        (DType.FP32, (1,) * 9, 4),
        (DType.UINT8, (2**31,), 2**31),
        (DType.BYTES, (3,), 11),
    ],
)
def test_a_layout_that_does_not_fit_its_bytes_is_refused(dtype: DType, shape: tuple[int, ...], nbytes: int) -> None:
    with pytest.raises(InvalidInput):
        check_layout(dtype, shape, nbytes)


def test_heap_tensors_may_be_retained_and_released_freely() -> None:
    tensor = Tensor.from_array(np.zeros(1, dtype=np.int8))
    tensor.retain().release()
    tensor.release()
    tensor.release()
