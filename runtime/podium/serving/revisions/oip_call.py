"""One call of the Open Inference Protocol, tensors in binary, as a client sees it. Pure but for the arena."""

from collections.abc import AsyncIterator, Iterator, Mapping
from math import prod
from typing import Any

import msgspec
import orjson

from podium.errors import InvalidInput, RemoteFailed
from podium.ipc.arena import Arena
from podium.ipc.tensor import Tensor, check_layout, element_ends
from podium_crds.tensors import DType

HEADER_LENGTH = "inference-header-content-length"
MAX_HEAD_BYTES = 1 << 20
MAX_ANSWER_BYTES = 256 << 20
PIECE_BYTES = 1 << 20
HEAP_BYTES = 4096
"""Below this a tensor stays on the heap."""


class _Parameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    datatype: DType
    shape: list[int]
    parameters: _Parameters


class _Answer(msgspec.Struct):
    outputs: list[_Output]


_DECODER = msgspec.json.Decoder(_Answer)


def head_of(inputs: Mapping[str, Tensor], timeout_us: int, priority: int) -> bytes:
    """The JSON part of a request."""
    parameters: dict[str, Any] = {"binary_data_output": True, "timeout": timeout_us}
    if priority:
        parameters["priority"] = priority
    entries = [
        {
            "name": name,
            "datatype": tensor.dtype.value,
            "shape": list(tensor.shape),
            "parameters": {"binary_data_size": tensor.nbytes},
        }
        for name, tensor in inputs.items()
    ]
    return orjson.dumps({"inputs": entries, "parameters": parameters})


async def body_of(head: bytes, inputs: Mapping[str, Tensor]) -> AsyncIterator[bytes]:
    """The whole body, a piece at a time: no second copy of it is held."""
    yield head
    for tensor in inputs.values():
        for piece in _pieces(tensor.data):
            yield piece


def _pieces(data: memoryview) -> Iterator[bytes]:
    for start in range(0, data.nbytes, PIECE_BYTES):
        yield bytes(data[start : start + PIECE_BYTES])


class AnswerReader:
    """Reads an answer into its places as it comes in."""

    def __init__(self, arena: Arena, head_bytes: int) -> None:
        """Raises RemoteFailed where the head is longer than it may be."""
        if not 0 < head_bytes <= MAX_HEAD_BYTES:
            raise RemoteFailed(f"its answer has a JSON part of {head_bytes} bytes; expected 1 to {MAX_HEAD_BYTES}")
        self._arena = arena
        self._head = bytearray()
        self._head_bytes = head_bytes
        self._outputs: dict[str, Tensor] = {}
        self._rest: list[memoryview] = []
        """What is still to be filled, in order."""

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes. Raises RemoteFailed, ArenaExhausted."""
        window = memoryview(chunk)
        missing = self._head_bytes - len(self._head)
        if missing:
            self._head += window[:missing]
            window = window[missing:]
            if len(self._head) == self._head_bytes:
                self._place()
        while window:
            if not self._rest:
                raise RemoteFailed("its answer is longer than its outputs")
            target = self._rest[0]
            taken = min(target.nbytes, window.nbytes)
            target[:taken] = window[:taken]
            window = window[taken:]
            if taken == target.nbytes:
                self._rest.pop(0)
            else:
                self._rest[0] = target[taken:]

    def finish(self) -> dict[str, Tensor]:
        """The outputs, owned by the caller. Raises RemoteFailed where the answer is not whole."""
        if len(self._head) < self._head_bytes or self._rest:
            raise RemoteFailed("its answer ended before its outputs did")
        for name, tensor in self._outputs.items():
            self._outputs[name] = self._arena.seal(tensor)
            if tensor.dtype is DType.BYTES:
                try:
                    element_ends(tensor.data, prod(tensor.shape))
                except InvalidInput as error:
                    raise RemoteFailed(f"output {name!r} is not what it declares: {error}") from error
        outputs, self._outputs = self._outputs, {}
        return outputs

    def close(self) -> None:
        """Gives back what was not handed out."""
        while self._outputs:
            self._outputs.popitem()[1].release()

    def _place(self) -> None:
        try:
            answer = _DECODER.decode(self._head)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RemoteFailed(f"its answer is not of the Open Inference Protocol in binary: {error}") from error
        sizes = [output.parameters.binary_data_size for output in answer.outputs]
        if any(size < 0 for size in sizes) or sum(sizes) > min(MAX_ANSWER_BYTES, self._arena.size_bytes // 2):
            raise RemoteFailed(f"its answer has {sum(sizes)} bytes, which find no room in this pod's shared memory")
        for output, nbytes in zip(answer.outputs, sizes, strict=True):
            shape = tuple(output.shape)
            try:
                check_layout(output.datatype, shape, nbytes)
            except InvalidInput as error:
                raise RemoteFailed(f"output {output.name[:80]!r} is not what it declares: {error}") from error
            if output.name in self._outputs:
                raise RemoteFailed(f"its answer has two outputs {output.name[:80]!r}")
            heap = nbytes < HEAP_BYTES
            tensor = (
                Tensor(output.datatype, shape, memoryview(bytearray(nbytes)))
                if heap
                else self._arena.tensor(output.datatype, shape, nbytes)
            )
            self._outputs[output.name] = tensor
            if nbytes:
                self._rest.append(tensor.data)
