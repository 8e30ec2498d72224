"""How the inputs of a batch become one tensor each, and its outputs each request's own again.

As they are (stacked), padded to the longest, or ragged end to end; see podium.batching.layouts for who may share a
batch. What is cut out of a padded output is copied, since its rows do not lie together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium.batching.queue import Waiting
from podium.batching.splitting import split, split_rows
from podium.errors import ModelError
from podium.ipc.tensor import NUMPY_DTYPES, Tensor
from podium_crds.assignment import Batching
from podium_crds.batching import PaddingSpec
from podium_crds.tensors import DType


@dataclass(frozen=True, slots=True)
class Part:
    """One input of the batch: the tensors of all requests in order, and the shape they have together."""

    tensors: Sequence[Tensor]
    shape: tuple[int, ...]
    fill: float | None = None
    """What shorter tensors are filled up with; None where all follow each other as they are."""

    @property
    def dtype(self) -> DType:
        """Of all of them."""
        return self.tensors[0].dtype

    @property
    def nbytes(self) -> int:
        """Of the joined tensor."""
        if self.fill is None:
            return sum([tensor.nbytes for tensor in self.tensors])
        return int(np.prod(self.shape, dtype=np.int64)) * NUMPY_DTYPES[self.dtype].itemsize

    def write_to(self, data: memoryview) -> None:
        """Copies everything to where it belongs, once."""
        if self.fill is not None:
            self._pad_to(np.frombuffer(data, NUMPY_DTYPES[self.dtype]).reshape(self.shape))
            return
        end = 0
        for tensor in self.tensors:
            data[end : end + tensor.nbytes] = tensor.data
            end += tensor.nbytes

    def joined(self) -> bytes:
        """The bytes of the joined tensor."""
        if self.fill is None:
            return b"".join([tensor.data for tensor in self.tensors])
        data = bytearray(self.nbytes)
        self.write_to(memoryview(data))
        return bytes(data)

    def _pad_to(self, whole: NDArray[Any]) -> None:
        if any(tensor.shape[1:] != self.shape[1:] for tensor in self.tensors):
            whole[...] = self.fill
        row = 0
        for tensor in self.tensors:
            window = tuple(slice(0, length) for length in tensor.shape[1:])
            whole[(slice(row, row + tensor.shape[0]), *window)] = tensor.array()
            row += tensor.shape[0]


class Joining:
    """Joins and splits the batches of one model as its batching settings say."""

    def __init__(self, batching: Batching) -> None:
        self._padding = {entry.input: entry for entry in batching.padding}
        self._ragged = batching.ragged

    def parts(self, batch: Sequence[Waiting]) -> dict[str, Part]:
        """One for each input, and for a ragged batch those that say where its rows are."""
        names = list(batch[0].inputs)
        parts = {name: self._part(name, [waiting.inputs[name] for waiting in batch]) for name in names}
        if self.is_ragged(batch):
            parts.update(self._row_marks(batch))
        return parts

    def is_ragged(self, batch: Sequence[Waiting]) -> bool:
        """True where rows follow each other end to end: then the model does not see requests, only rows."""
        return self._ragged is not None and bool(batch[0].bucket)

    def split(
        self, outputs: Mapping[str, Tensor], answered: Sequence[Waiting], batch: Sequence[Waiting]
    ) -> list[dict[str, Tensor]]:
        """The share of each answered request, in order; the others of the batch have no rows in the outputs.

        Raises ModelError where an output has not their rows.
        """
        rows = [waiting.rows for waiting in answered]
        if self._ragged is None or not self.is_ragged(batch):
            shares = split(outputs, rows)
            if not self._padding or len(batch) == 1:
                return shares
            return [self._cropped(share, waiting, batch) for share, waiting in zip(shares, answered, strict=True)]
        joined = {name: tensor for name, tensor in outputs.items() if name in self._ragged.outputs}
        shares = split({name: tensor for name, tensor in outputs.items() if name not in joined}, rows)
        lengths = [self._row_length(waiting) for waiting in answered]
        elements = [count * length for count, length in zip(rows, lengths, strict=True)]
        for name, tensor in joined.items():
            if not tensor.shape or tensor.shape[0] != sum(elements):
                raise ModelError(f"output {name!r} has shape {list(tensor.shape)}, expected {sum(elements)} elements")
            for index, piece in enumerate(split_rows(tensor, elements)):
                shape = (rows[index], lengths[index], *tensor.shape[1:])
                shares[index][name] = Tensor(piece.dtype, shape, piece.data, piece.lease)
        return shares

    def _part(self, name: str, tensors: list[Tensor]) -> Part:
        first = tensors[0]
        if self._ragged is not None and name in self._ragged.inputs and len(first.shape) > 1:
            return Part(tensors, (sum(t.shape[0] * t.shape[1] for t in tensors), *first.shape[2:]))
        if len(tensors) == 1:
            return Part(tensors, first.shape)
        rows = sum([tensor.shape[0] for tensor in tensors])
        entry = self._padding.get(name)
        if entry is None:
            return Part(tensors, (rows, *first.shape[1:]))
        shape = (rows, *(max(lengths) for lengths in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)))
        return Part(tensors, shape, float(entry.value))

    def _row_length(self, waiting: Waiting) -> int:
        assert self._ragged is not None
        return next((waiting.inputs[name].shape[1] for name in self._ragged.inputs if name in waiting.inputs), 0)

    def _row_marks(self, batch: Sequence[Waiting]) -> dict[str, Part]:
        assert self._ragged is not None
        lengths = [length for waiting in batch for length in [self._row_length(waiting)] * waiting.rows]
        marks: dict[str, NDArray[np.int64]] = {}
        if self._ragged.offsets_input is not None:
            marks[self._ragged.offsets_input] = np.cumsum([0, *lengths], dtype=np.int64)
        if self._ragged.lengths_input is not None:
            marks[self._ragged.lengths_input] = np.array(lengths, np.int64)
        return {name: Part([Tensor.from_array(array)], array.shape) for name, array in marks.items()}

    def _cropped(self, share: dict[str, Tensor], waiting: Waiting, batch: Sequence[Waiting]) -> dict[str, Tensor]:
        for entry in self._padding.values():
            if entry.input in waiting.inputs:
                _crop(share, entry, waiting, batch)
        return share


STACKED = Joining(Batching())
"""Without padding and ragged inputs."""


def padding_of(parts: Mapping[str, Part]) -> tuple[int, int]:
    """Elements of padded inputs as requests brought them, and as the model gets them."""
    padded = [part for part in parts.values() if part.fill is not None]
    if not padded:
        return 0, 0
    itemsizes = [NUMPY_DTYPES[part.dtype].itemsize for part in padded]
    real = sum(sum(t.nbytes for t in part.tensors) // size for part, size in zip(padded, itemsizes, strict=True))
    return real, sum(part.nbytes // size for part, size in zip(padded, itemsizes, strict=True))


def _crop(share: dict[str, Tensor], entry: PaddingSpec, waiting: Waiting, batch: Sequence[Waiting]) -> None:
    """Cuts the outputs that are as long as a padded input back to what the request sent."""
    for output in entry.outputs:
        tensor = share.get(output.name)
        if tensor is None:
            continue
        window = [slice(None)] * len(tensor.shape)
        for given, follows in zip(entry.dimensions, output.dimensions, strict=True):
            padded = max(other.inputs[entry.input].shape[given] for other in batch)
            if follows >= len(tensor.shape) or tensor.shape[follows] != padded:
                raise ModelError(
                    f"output {output.name!r} has shape {list(tensor.shape)}, expected {padded} in dimension {follows}, "
                    f"as input {entry.input!r} was padded to; see batching.padding"
                )
            window[follows] = slice(0, waiting.inputs[entry.input].shape[given])
        array = tensor.array()[tuple(window)]
        if array.shape != tensor.shape:
            share[output.name] = Tensor.from_array(np.ascontiguousarray(array))
