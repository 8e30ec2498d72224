"""`Tensor`: a typed window over bytes, on the heap or in the arena, and how it looks as a numpy array."""

from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from podium.errors import InvalidInput
from podium.ipc.lease import Lease
from podium_crds.tensors import MAX_DIMS, DType

NUMPY_DTYPES: dict[DType, np.dtype[Any]] = {
    DType.BOOL: np.dtype("?"),
    DType.UINT8: np.dtype("u1"),
    DType.UINT16: np.dtype("<u2"),
    DType.UINT32: np.dtype("<u4"),
    DType.UINT64: np.dtype("<u8"),
    DType.INT8: np.dtype("i1"),
    DType.INT16: np.dtype("<i2"),
    DType.INT32: np.dtype("<i4"),
    DType.INT64: np.dtype("<i8"),
    DType.FP16: np.dtype("<f2"),
    DType.FP32: np.dtype("<f4"),
    DType.FP64: np.dtype("<f8"),
}
"""Fixed-size element types; BYTES has none."""

_DTYPES = {numpy_dtype: dtype for dtype, numpy_dtype in NUMPY_DTYPES.items()}
_LENGTH = Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """C-contiguous little-endian elements. BYTES holds, per element, a 4-byte little-endian length and the data.

    `lease` is None on the heap. In the arena, `data` may be read until `release()` was called as often as the tensor
    was handed out plus each `retain()`.
    """

    dtype: DType
    shape: tuple[int, ...]
    data: memoryview
    lease: Lease | None = None

    @classmethod
    def from_array(cls, array: NDArray[Any]) -> Self:
        """A heap tensor. Copies only where the array is not C-contiguous little-endian; objects and text are encoded.

        Raises InvalidInput for an array type that has no Open Inference Protocol name.
        """
        dtype = dtype_of(array)
        if dtype is DType.BYTES:
            return cls(dtype, array.shape, memoryview(encode_bytes(array)))
        packed = np.ascontiguousarray(array, dtype=NUMPY_DTYPES[dtype]).reshape(array.shape)
        return cls(dtype, packed.shape, byte_view(packed))

    @property
    def nbytes(self) -> int:
        """Length of the encoded elements in bytes."""
        return self.data.nbytes

    def array(self) -> NDArray[Any]:
        """A view over the bytes, read-only where they are; BYTES is decoded into an object array of `bytes`."""
        if self.dtype is DType.BYTES:
            return decode_bytes(self.data, self.shape)
        return np.frombuffer(self.data, dtype=NUMPY_DTYPES[self.dtype]).reshape(self.shape)

    def retain(self) -> Self:
        """Adds one owner, who must release once. No effect on the heap."""
        if self.lease is not None:
            self.lease.retain()
        return self

    def release(self) -> None:
        """Gives up one ownership; the last one frees the arena slot. No effect on the heap."""
        if self.lease is not None:
            self.lease.release()


def dtype_of(array: NDArray[Any]) -> DType:
    """The Open Inference Protocol type of an array; objects, `S` and `U` arrays are BYTES."""
    if array.dtype.kind in "OSU":
        return DType.BYTES
    known = _DTYPES.get(array.dtype.newbyteorder("<"))
    if known is None:
        raise InvalidInput(f"an array of {array.dtype} has no tensor type; expected one of {', '.join(DType)}")
    return known


def byte_view(array: NDArray[Any]) -> memoryview:
    """The memory of a C-contiguous array as flat bytes; empty arrays included."""
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def encode_bytes(array: NDArray[Any]) -> bytes:
    """Elements in C order, each as length and data; `str` is encoded as UTF-8."""
    parts: list[bytes] = []
    for element in array.reshape(-1).tolist():
        if isinstance(element, str):
            data = element.encode()
        elif isinstance(element, (bytes, bytearray, memoryview)):
            data = bytes(element)
        else:
            raise InvalidInput(f"a BYTES element is {type(element).__name__}, expected bytes or str")
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def element_ends(data: memoryview, count: int) -> list[int]:
    """Where each of `count` BYTES elements ends. Raises InvalidInput unless they fill `data` exactly."""
    ends: list[int] = []
    position, size = 0, data.nbytes
    for _ in range(count):
        if position + 4 > size:
            raise InvalidInput(f"BYTES data ends inside the length of element {len(ends)} of {count}")
        position += 4 + _LENGTH.unpack_from(data, position)[0]
        ends.append(position)
    if position != size:
        raise InvalidInput(f"BYTES data has {size} bytes, its {count} elements take {position}")
    return ends


def decode_bytes(data: memoryview, shape: tuple[int, ...]) -> NDArray[Any]:
    """An object array of `bytes`, copied out of `data`."""
    ends = element_ends(data, prod(shape))
    flat = np.empty(len(ends), dtype=object)
    start = 0
    for index, end in enumerate(ends):
        flat[index] = bytes(data[start + 4 : end])
        start = end
    return flat.reshape(shape)


def check_layout(dtype: DType, shape: tuple[int, ...], nbytes: int) -> None:
    """Raises InvalidInput where a shape is not one, or does not take exactly `nbytes` bytes of that type."""
    if len(shape) > MAX_DIMS or any(not 0 <= dim < 2**31 for dim in shape):
        raise InvalidInput(
            f"shape {list(shape)[: MAX_DIMS + 1]}: expected at most {MAX_DIMS} dimensions of 0 to 2^31-1"
        )
    if dtype is DType.BYTES:
        if nbytes < 4 * prod(shape):
            raise InvalidInput(f"{nbytes} bytes are too few for {prod(shape)} BYTES elements")
        return
    expected = prod(shape) * NUMPY_DTYPES[dtype].itemsize
    if expected != nbytes:
        raise InvalidInput(f"{dtype} of shape {list(shape)} takes {expected} bytes, not {nbytes}")
