"""Bodies that are one file: a numpy file, raw elements, text; each for the one input. No pickle anywhere. Pure."""

import io
from collections.abc import Mapping
from math import prod
from tokenize import TokenError

import numpy as np

from podium.errors import InvalidInput
from podium.http.forms.document import Served, Tensors
from podium.http.forms.sole import shape_of, sole_input
from podium.http.forms.wishes import NamedRequest, chosen
from podium.http.transport.asgi import Answer
from podium.http.transport.errors import NotAcceptableError
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract
from podium.serving.revisions.named_tensors import binary_tensor, text_tensor
from podium_crds.tensors import MAX_DIMS, DType

NPY = b"application/x-npy"
MAX_NPY_HEADER_BYTES = 10_000
UNREADABLE_NPY = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError, TokenError)
"""What numpy raises over a head: it evaluates literals, and tokenizes what Python 2 may have written."""


def parse_npy(raw: bytes, contract: Contract) -> tuple[Tensors, NamedRequest]:
    """A numpy file for the one input. Objects, records and text are refused. Raises InvalidInput."""
    name, _ = sole_input(contract)
    stream = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream, MAX_NPY_HEADER_BYTES)
        elif version == (2, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream, MAX_NPY_HEADER_BYTES)
        else:
            raise InvalidInput(f"a numpy file of format {version}; expected 1.0 or 2.0")
    except UNREADABLE_NPY as error:
        raise InvalidInput("the body is not a numpy file (.npy)") from error
    data = memoryview(raw)[stream.tell() :]
    if dtype.kind not in "biuf" or dtype.hasobject:
        raise InvalidInput(f"a numpy file of {dtype.str[:20]}; expected booleans, integers or floats")
    if len(shape) > MAX_DIMS or any(dim < 0 for dim in shape) or prod(shape) * dtype.itemsize != data.nbytes:
        raise InvalidInput(f"the numpy file has {data.nbytes} bytes of data, which its shape does not take")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
    tensors = {name: Tensor.from_array(array)}
    contract.check(tensors)
    return tensors, NamedRequest()


def npy_answer(_served: Served, request: NamedRequest, outputs: Mapping[str, Tensor]) -> Answer:
    """The one output as a numpy file. Raises NotAcceptableError."""
    wanted = chosen(outputs, request.outputs)
    tensor = next(iter(wanted.values())) if len(wanted) == 1 else None
    if tensor is None or tensor.dtype is DType.BYTES:
        raise NotAcceptableError("a numpy file holds one output of numbers; expected Accept: application/json")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, tensor.array(), version=(1, 0), allow_pickle=False)
    return Answer(200, stream.getvalue(), NPY)


def parse_raw(raw: bytes, contract: Contract) -> tuple[Tensors, NamedRequest]:
    """Little-endian elements of the one input; for BYTES, its one element. Raises InvalidInput."""
    name, spec = sole_input(contract)
    if spec.dtype is DType.BYTES:
        tensors = {name: text_tensor([raw], (1,) * len(spec.shape))}
    else:
        tensors = {name: binary_tensor(spec.dtype, shape_of(spec, len(raw)), memoryview(raw))}
    contract.check(tensors)
    return tensors, NamedRequest()


def parse_text(raw: bytes, contract: Contract) -> tuple[Tensors, NamedRequest]:
    """One text for the one input, which takes BYTES. Raises InvalidInput."""
    name, spec = sole_input(contract)
    if spec.dtype is not DType.BYTES:
        raise InvalidInput(f"text is for an input of BYTES; {name!r} takes {spec.dtype}")
    check_text(raw)
    return parse_raw(raw, contract)


def check_text(raw: bytes) -> None:
    """Raises InvalidInput where it is none."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("the text is not UTF-8") from error
