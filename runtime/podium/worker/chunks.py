"""What a model yielded → a Chunk, checked against the resource's contract. Pure."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from podium.errors import ContractBreach, InvalidInput, ModelError
from podium.ipc.descriptor import MAX_TENSORS
from podium.ipc.protocol import MAX_CHUNK_BYTES, Chunk, Piece
from podium.ipc.tensor import Tensor
from podium_crds.tensors import TensorSpec

Declared = Mapping[str, TensorSpec]


def as_chunk(stream: int, arrays: Mapping[str, NDArray[Any]], declared: Declared) -> Chunk:
    """One chunk, its bytes copied. Outputs that are not declared are left out; a chunk may carry some of them only.

    Raises ContractBreach for another dtype than declared, ModelError for what no chunk can carry.
    """
    if len(arrays) > MAX_TENSORS:
        raise ModelError(f"the model yielded {len(arrays)} outputs in one chunk, at most {MAX_TENSORS} are possible")
    pieces = tuple(_piece(name, array, declared) for name, array in arrays.items() if not declared or name in declared)
    if arrays and not pieces:
        raise ContractBreach(f"the model yielded {sorted(arrays)}; declared are {sorted(declared)}")
    total = sum(len(piece.data) for piece in pieces)
    if total > MAX_CHUNK_BYTES:
        raise ModelError(f"the model yielded a chunk of {total} bytes, at most {MAX_CHUNK_BYTES}; yield smaller parts")
    return Chunk(stream, pieces)


def _piece(name: str, array: NDArray[Any], declared: Declared) -> Piece:
    try:
        tensor = Tensor.from_array(array)
    except InvalidInput as error:
        raise ModelError(f"output {name!r}: {error}") from error
    if declared and tensor.dtype is not declared[name].dtype:
        raise ContractBreach(f"output {name!r} is {tensor.dtype}, declared is {declared[name].dtype}")
    return Piece(name, tensor.dtype, tensor.shape, bytes(tensor.data))
