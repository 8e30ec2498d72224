"""What counts as the same answer."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.ipc.tensor import Tensor
from podium.serving.revisions.comparing import CHUNK_ELEMENTS, difference
from podium_crds.shadow import OutputTolerance, Shadow


def policy(tolerance: float = 0.001, *outputs: OutputTolerance) -> Shadow:
    return Shadow(revision="new", percent=100, tolerance=tolerance, outputs=outputs)


def answer(**arrays: object) -> dict[str, Tensor]:
    return {name: Tensor.from_array(np.asarray(array)) for name, array in arrays.items()}


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_floats_within_the_absolute_and_relative_tolerance_are_alike() -> None:
    assert difference(answer(y=floats(0, 100)), answer(y=floats(0.0009, 100.09)), policy()) is None


def test_a_float_beyond_the_tolerance_is_told_with_its_output_and_how_far_off_it_is() -> None:
    found = difference(answer(x=floats(1), y=floats(2, 3)), answer(x=floats(1), y=floats(2, 4)), policy())
    assert found is not None
    assert found.message == "output 'y' is off by 1 where 0.004 is allowed, 1 of 2 elements are"


def test_the_worst_output_is_told_first() -> None:
    found = difference(answer(x=floats(1), y=floats(1)), answer(x=floats(1.1), y=floats(9)), policy())
    assert found is not None
    assert "'y'" in found.message
    assert found.factor > 1000


def test_an_output_with_a_tolerance_of_its_own_is_judged_by_that_alone() -> None:
    wide = OutputTolerance(name="y", absolute=2)
    assert difference(answer(y=floats(1)), answer(y=floats(2.5)), policy(0.001, wide)) is None
    strict = OutputTolerance(name="y")
    assert difference(answer(y=floats(1)), answer(y=floats(1.0001)), policy(0.5, strict)) is not None


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (np.array([1, 2], dtype="i8"), np.array([1, 3], dtype="i8"), "differs in 1 of 2 elements"),
        (np.array([2**60], dtype="i8"), np.array([2**60 + 1], dtype="i8"), "differs in 1 of 1 elements"),
        (np.array([True]), np.array([False]), "differs in 1 of 1 elements"),
        (np.array(["a"]), np.array(["b"]), "is other text or bytes"),
        (floats(1, 2), floats(1), "has shape [1], expected [2]"),
        (floats(1), np.array([1.0], dtype="f8"), "is FP64, expected FP32"),
        (floats(1), floats(math.nan), "is off by inf"),
        (floats(math.inf), floats(-math.inf), "is off by inf"),
        (floats(math.inf), floats(3), "is off by inf"),
    ],
)
def test_what_is_not_alike_says_in_what_it_differs(expected: np.ndarray, actual: np.ndarray, words: str) -> None:
    found = difference(answer(y=expected), answer(y=actual), policy(10.0))
    assert found is not None
    assert words in found.message


def test_nan_is_like_nan_and_infinity_like_infinity() -> None:
    same = floats(math.nan, math.inf, -math.inf)
    assert difference(answer(y=same), answer(y=same.copy()), policy(0)) is None


def test_a_missing_output_differs_and_one_that_is_new_does_not() -> None:
    assert difference(answer(y=floats(1)), answer(y=floats(1), z=floats(1)), policy()) is None
    found = difference(answer(y=floats(1), z=floats(1)), answer(y=floats(1)), policy())
    assert found is not None
    assert found.message == "output 'z' is missing"


def test_a_difference_behind_the_first_chunk_is_found() -> None:
    expected = np.zeros(CHUNK_ELEMENTS + 5, dtype=np.float32)
    actual = expected.copy()
    actual[-1] = 1
    found = difference(answer(y=expected), answer(y=actual), policy())
    assert found is not None
    assert f"1 of {CHUNK_ELEMENTS + 5} elements" in found.message


def test_empty_outputs_are_alike() -> None:
    assert difference(answer(y=floats()), answer(y=floats()), policy()) is None


@given(st.lists(st.floats(width=32), max_size=8), st.floats(0, 10), st.floats(0, 1))
def test_every_answer_is_like_itself(values: list[float], absolute: float, relative: float) -> None:
    own = OutputTolerance(name="y", absolute=absolute, relative=relative)
    assert difference(answer(y=floats(*values)), answer(y=floats(*values)), policy(0, own)) is None


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 10), st.floats(0, 1))
def test_it_agrees_with_numpy(one: float, other: float, absolute: float, relative: float) -> None:
    own = OutputTolerance(name="y", absolute=absolute, relative=relative)
    expected, actual = np.array([one]), np.array([other])
    alike = bool(np.isclose(actual, expected, rtol=relative, atol=absolute, equal_nan=True)[0])
    assert (difference(answer(y=expected), answer(y=actual), policy(0, own)) is None) == alike
