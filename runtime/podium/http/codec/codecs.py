"""Bodies ↔ tensors: small ones here and now, large or risky ones in the codec process."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from podium.http.codec.process import CodecProcess
from podium.http.forms.contents import CONTENT_TYPE, Content, IsolatedContentError
from podium.http.forms.document import Served, Tensors
from podium.http.forms.infer import InferRequest
from podium.http.forms.table import READERS, WRITERS, Form
from podium.http.transport.asgi import Answer
from podium.ipc.arena import Arena
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract
from podium_crds.tensors import DType

LARGE_BODY_BYTES = 256 << 10
"""JSON above this holds the interpreter for more than about a millisecond."""
LARGE_ANSWER_BYTES = 128 << 10
"""Tensor bytes that are to become JSON: a number takes more characters than bytes."""
WRITES_TEXT = (Form.NAMED, Form.INFER, Form.BATCH, Form.SINGLE)


class Codecs:
    """Reads and writes every form. Used from one event loop."""

    def __init__(self, arena: Arena) -> None:
        self._process = CodecProcess(arena)

    async def read(self, form: Form, contract: Contract, body: Sequence[bytes]) -> tuple[Tensors, Any]:
        """The tensors of a body, owned by the caller, and what it asks for beside them.

        Raises InvalidInput, Overloaded, CodecFailedError.
        """
        reader = READERS[form]
        if reader.is_isolated or sum(map(len, body)) > LARGE_BODY_BYTES:
            return await self._process.read(form, contract, body)
        try:
            return reader.parse(body[0] if len(body) == 1 else b"".join(body), contract)
        except IsolatedContentError:
            return await self._process.read(form, contract, body)

    async def read_files(self, files: Mapping[str, Content], contract: Contract) -> Tensors:
        """What the files of some inputs stand for, owned by the caller, each checked alone. Raises as `read`."""
        given = {
            name: {CONTENT_TYPE: content.type, "data": content.elements, "shape": content.shape}
            for name, content in files.items()
        }
        body = msgspec.msgpack.encode({"inputs": given})
        tensors, _ = await self.read(Form.MSGPACK, contract.of_inputs(files), [body])
        return tensors

    async def write(self, form: Form, served: Served, request: Any, outputs: Mapping[str, Tensor]) -> Answer:
        """The answer. Borrows the outputs. Raises InvalidInput, NotAcceptableError, Overloaded, CodecFailedError."""
        form = form if form in WRITERS else Form.NAMED
        if form in WRITES_TEXT and text_bytes(request, outputs) > LARGE_ANSWER_BYTES:
            return await self._process.write(form, served, request, outputs)
        return WRITERS[form](served, request, outputs)

    async def close(self) -> None:
        """Ends the codec process."""
        await self._process.close()


def text_bytes(request: Any, outputs: Mapping[str, Tensor]) -> int:
    """Bytes of tensors that will be written as text."""
    total = 0
    may_be_binary = isinstance(request, InferRequest) and (request.outputs is not None or request.binary_by_default)
    for name, tensor in outputs.items():
        if not (may_be_binary and _is_binary(request, name)):
            total += tensor.nbytes if tensor.dtype is not DType.BYTES else tensor.nbytes // 4
    return total


def _is_binary(request: InferRequest, name: str) -> bool:
    if request.outputs is None:
        return request.binary_by_default
    return any(output.name == name and output.binary for output in request.outputs)
