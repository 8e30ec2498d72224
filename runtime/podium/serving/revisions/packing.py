"""Flat lists of plain numbers, as JSON gives them, made into the bytes of a tensor: for short lists struct is several
times faster than numpy."""

from collections.abc import Mapping
from math import prod
from struct import Struct, error

from podium_crds.tensors import DType

MAX_PACKED = 2048
"""Elements above which numpy is faster than struct."""
_NUMBERS: frozenset[type] = frozenset((int, float))
_INTEGERS: frozenset[type] = frozenset((int,))
PACKED: Mapping[DType, tuple[str, frozenset[type]]] = {
    DType.FP16: ("e", _NUMBERS),
    DType.FP32: ("f", _NUMBERS),
    DType.FP64: ("d", _NUMBERS),
    DType.INT8: ("b", _INTEGERS),
    DType.INT16: ("h", _INTEGERS),
    DType.INT32: ("i", _INTEGERS),
    DType.INT64: ("q", _INTEGERS),
    DType.UINT8: ("B", _INTEGERS),
    DType.UINT16: ("H", _INTEGERS),
    DType.UINT32: ("I", _INTEGERS),
    DType.UINT64: ("Q", _INTEGERS),
}


class Packing:
    """For tensors of one dtype and shape."""

    __slots__ = ("_count", "_pack", "_types", "dtype", "shape")

    def __init__(self, dtype: DType, shape: tuple[int, ...]) -> None:
        code, self._types = PACKED.get(dtype, ("", frozenset()))
        self.dtype, self.shape = dtype, shape
        self._count = prod(shape) if code else MAX_PACKED + 1
        self._pack = Struct(f"<{self._count}{code}").pack if self._count <= MAX_PACKED else None

    def pack(self, data: object, *, may_hold_booleans: bool = True) -> bytes | None:
        """The bytes, from as many plain numbers as the shape has. None for everything else, right or wrong, and for
        long lists: `parse_tensor` decides on those. Booleans are no numbers, and struct alone takes them for some."""
        if self._pack is None or type(data) is not list or len(data) != self._count:
            return None
        if may_hold_booleans and not self._types.issuperset(map(type, data)):
            return None
        try:
            return self._pack(*data)
        except (error, OverflowError):
            return None
