"""How far two answers to the same request are apart. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podium.ipc.tensor import Tensor
from podium_crds.shadow import MAX_DIFFERENCE_CHARS, Shadow
from podium_crds.tensors import DType

FLOATS = frozenset({DType.FP16, DType.FP32, DType.FP64})
CHUNK_ELEMENTS = 1 << 16
"""Compared at once: doubles of so many are all the memory that a comparison takes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is wrong with an answer. `factor`: how often the tolerance goes into it; infinite where none is allowed."""

    factor: float
    message: str


def difference(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], policy: Shadow) -> Difference | None:
    """The largest difference of any output, or None where all are alike. An output that only `actual` has is none.

    A float may be off by its absolute tolerance plus its relative one times what was expected; NaN is like NaN, and
    infinity like infinity of the same sign. Everything else must be equal.
    """
    own = {each.name: (each.absolute, each.relative) for each in policy.outputs}
    found = None
    for name, wanted in expected.items():
        given = actual.get(name)
        one = _of_output(name, wanted, given, *own.get(name, (policy.tolerance, policy.tolerance)))
        if one is not None and (found is None or one.factor > found.factor):
            found = one
    return found


def _of_output(name: str, wanted: Tensor, given: Tensor | None, absolute: float, relative: float) -> Difference | None:
    if given is None:
        return _unlike(name, "is missing")
    if given.dtype is not wanted.dtype:
        return _unlike(name, f"is {given.dtype.value}, expected {wanted.dtype.value}")
    if given.shape != wanted.shape:
        return _unlike(name, f"has shape {list(given.shape)}, expected {list(wanted.shape)}")
    if given.dtype is DType.BYTES:
        # The same elements have the same encoding.
        return None if given.data == wanted.data else _unlike(name, "is other text or bytes")
    left, right = given.array().reshape(-1), wanted.array().reshape(-1)
    if given.dtype in FLOATS:
        return _of_floats(name, left, right, absolute, relative)
    differing = int(np.count_nonzero(left != right))
    return _unlike(name, f"differs in {differing} of {left.size} elements, which must be equal") if differing else None


def _of_floats(
    name: str, given: NDArray[np.floating], wanted: NDArray[np.floating], absolute: float, relative: float
) -> Difference | None:
    beyond, factor, off_by, allowed = 0, 0.0, 0.0, 0.0
    for start in range(0, given.size, CHUNK_ELEMENTS):
        ours = given[start : start + CHUNK_ELEMENTS].astype("f8")
        theirs = wanted[start : start + CHUNK_ELEMENTS].astype("f8")
        alike = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            apart = np.where(alike, 0.0, np.abs(ours - theirs))
            apart[np.isnan(apart)] = np.inf
            limits = absolute + relative * np.where(np.isfinite(theirs), np.abs(theirs), 0.0)
            factors = np.where(apart > limits, apart / limits, 0.0)
        beyond += int(np.count_nonzero(factors))
        at = int(np.argmax(factors))
        if factors[at] > factor:
            factor, off_by, allowed = float(factors[at]), float(apart[at]), float(limits[at])
    if not beyond:
        return None
    return _told(
        name, factor, f"is off by {off_by:.6g} where {allowed:.6g} is allowed, {beyond} of {given.size} elements are"
    )


def _unlike(name: str, what: str) -> Difference:
    return _told(name, float("inf"), what)


def _told(name: str, factor: float, what: str) -> Difference:
    return Difference(factor, f"output {name!r} {what}"[:MAX_DIFFERENCE_CHARS])
