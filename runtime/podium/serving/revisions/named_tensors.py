"""Named tensors as JSON, the form of `:predict`, of warm-up requests and of smoke tests. Pure.

A tensor is `{"dtype": "FP32", "shape": [2, 3], "data": […]}` with data nested or flat, or `"base64"` in place of data.
Where the input is declared, the data alone will do: `"text": ["a", "b"]`.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium.errors import InvalidInput
from podium.ipc.tensor import NUMPY_DTYPES, Tensor, check_layout, element_ends, encode_bytes
from podium.serving.revisions.contract import Contract
from podium_crds.tensors import MAX_DIMS, DType, TensorSpec

MAX_TENSORS = 64
MAX_BYTES_ELEMENTS = 1 << 16
"""Elements of one BYTES tensor: each costs Python time."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}\Z")
KEYS = {"dtype", "shape", "data", "base64"}
NUMPY_NAMES = {dtype.name: name for name, dtype in NUMPY_DTYPES.items()} | {"string": DType.BYTES}
"""`float32` and the like, as clients of Inferno and Forge write them."""
KINDS = {"b": "true or false", "i": "integers", "u": "integers", "f": "numbers"}


def parse_tensors(value: object, contract: Contract) -> dict[str, Tensor]:
    """Heap tensors from the `inputs` object of a request, checked against the contract. Raises InvalidInput."""
    if not isinstance(value, dict) or not value:
        raise InvalidInput(
            '"inputs" must be an object of named tensors: {"inputs": {"name": {"dtype", "shape", "data"}}}'
        )
    if len(value) > MAX_TENSORS:
        raise InvalidInput(f"{len(value)} inputs; expected at most {MAX_TENSORS}")
    contract.check_names(value)
    tensors = {name: parse_tensor(name, item, contract.inputs.get(name)) for name, item in value.items()}
    contract.check(tensors)
    return tensors


def parse_tensor(name: str, value: object, spec: TensorSpec | None) -> Tensor:
    """One heap tensor. Raises InvalidInput with what was expected."""
    if not NAME.match(name):
        raise InvalidInput(
            f"tensor name {name[:80]!r}; expected a letter or _, then letters, digits, and . _ - up to 63"
        )
    if not isinstance(value, dict):
        if spec is None:
            raise InvalidInput(
                f'input {name!r}: expected {{"dtype", "shape", "data"}}, since the model declares no inputs'
            )
        return _from_data(name, value, spec.dtype, None)
    if unknown := sorted(value.keys() - KEYS):
        raise InvalidInput(f"input {name!r}: unknown key {unknown[0]!r}; expected dtype, shape, and data or base64")
    if ("data" in value) == ("base64" in value):
        raise InvalidInput(f"input {name!r}: expected exactly one of data and base64")
    dtype = parse_dtype(name, value.get("dtype", spec.dtype if spec else None))
    shape = parse_shape(name, value["shape"]) if "shape" in value else None
    if "base64" in value:
        return _from_base64(name, value["base64"], dtype, shape)
    return _from_data(name, value["data"], dtype, shape)


def parse_dtype(name: str, value: object) -> DType:
    """A dtype by its Open Inference Protocol name, or numpy's."""
    if isinstance(value, str) and value in NUMPY_NAMES:
        return NUMPY_NAMES[value]
    if not isinstance(value, str) or value not in DType.__members__:
        raise InvalidInput(f"input {name!r}: dtype {value!r}; expected one of {', '.join(DType)}")
    return DType(value)


def parse_shape(name: str, value: object) -> tuple[int, ...]:
    """A shape of at most MAX_DIMS sizes, before anything of that size is allocated."""
    sized = isinstance(value, list) and 1 <= len(value) <= MAX_DIMS
    if not sized or not all(type(dim) is int and 0 <= dim < 2**31 for dim in value):  # type: ignore[attr-defined]
        raise InvalidInput(f"input {name!r}: shape must be a list of 1 to {MAX_DIMS} sizes from 0 to 2147483647")
    return tuple(value)  # type: ignore[arg-type]


def to_json(tensor: Tensor) -> dict[str, Any]:
    """The same form back, for orjson with OPT_SERIALIZE_NUMPY. Borrows the tensor's memory; text that is not UTF-8 goes
    as base64."""
    head = {"dtype": tensor.dtype.value, "shape": list(tensor.shape)}
    if tensor.dtype is DType.BYTES:
        try:
            texts = [element.decode() for element in bytes_elements(tensor)]
        except UnicodeDecodeError:
            return {**head, "base64": base64.b64encode(tensor.data).decode()}
        return {**head, "data": _nested(texts, tensor.shape)}
    array = tensor.array()
    return {**head, "data": array if array.size and array.ndim else array.tolist()}


def bytes_elements(tensor: Tensor) -> Iterator[bytes]:
    """The elements of a BYTES tensor, each copied."""
    start = 0
    for end in element_ends(tensor.data, prod(tensor.shape)):
        yield bytes(tensor.data[start + 4 : end])
        start = end


def text_tensor(elements: list[bytes], shape: tuple[int, ...]) -> Tensor:
    """A heap BYTES tensor."""
    flat = np.empty(len(elements), dtype=object)
    flat[:] = elements
    return Tensor(DType.BYTES, shape, memoryview(encode_bytes(flat)))


def _from_base64(name: str, value: object, dtype: DType, shape: tuple[int, ...] | None) -> Tensor:
    if shape is None:
        raise InvalidInput(f"input {name!r}: base64 needs a shape")
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:  # binascii.Error, or a character outside ASCII
        raw = None
    if raw is None:
        raise InvalidInput(f"input {name!r}: base64 must be a string of base64 (RFC 4648)")
    try:
        return binary_tensor(dtype, shape, memoryview(raw))
    except InvalidInput as error:
        raise InvalidInput(f"input {name!r}: {error}") from error


def binary_tensor(dtype: DType, shape: tuple[int, ...], data: memoryview) -> Tensor:
    """A heap tensor over raw little-endian bytes. Raises InvalidInput where they are not of that type and shape."""
    check_layout(dtype, shape, data.nbytes)
    if dtype is DType.BYTES:
        check_elements(shape)
        element_ends(data, prod(shape))
    return Tensor(dtype, shape, data)


def check_elements(shape: tuple[int, ...]) -> None:
    """Raises InvalidInput where a BYTES tensor of that shape has too many elements."""
    if prod(shape) > MAX_BYTES_ELEMENTS:
        raise InvalidInput(f"{prod(shape)} BYTES elements; expected at most {MAX_BYTES_ELEMENTS}")


def _from_data(name: str, data: object, dtype: DType, shape: tuple[int, ...] | None) -> Tensor:
    if not isinstance(data, list):
        raise InvalidInput(f"input {name!r}: data must be a list of {_expected(dtype)}, the first dimension the batch")
    if dtype is DType.BYTES:
        elements, found = _texts(name, data)
        return text_tensor(elements, _reshaped(name, found, shape))
    array = _numbers(name, data, dtype)
    return Tensor.from_array(array.reshape(_reshaped(name, array.shape, shape)))


def _expected(dtype: DType) -> str:
    return "strings" if dtype is DType.BYTES else KINDS[NUMPY_DTYPES[dtype].kind]


def _reshaped(name: str, found: tuple[int, ...], shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape asked for, where the data is nested that way or flat with as many elements."""
    if shape is None or shape == found:
        return found
    if len(found) == 1 and prod(shape) == found[0]:
        return shape
    raise InvalidInput(f"input {name!r}: data has shape {list(found)}; expected {list(shape)}, nested or flat")


def _numbers(name: str, data: list[object], dtype: DType) -> NDArray[Any]:
    try:
        array = np.array(data) if data else np.empty((0,), NUMPY_DTYPES[dtype])
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"input {name!r}: data is ragged or nested too deep; expected {_expected(dtype)}") from error
    target = NUMPY_DTYPES[dtype]
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[target.kind]
    if array.size and array.dtype.kind not in allowed:
        raise InvalidInput(f"input {name!r}: data does not hold {_expected(dtype)} only, which {dtype} needs")
    if array.ndim > MAX_DIMS:
        raise InvalidInput(f"input {name!r}: data has {array.ndim} dimensions; expected at most {MAX_DIMS}")
    if target.kind in "iu" and array.size:
        bounds = np.iinfo(target)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise InvalidInput(f"input {name!r}: data is out of range; {dtype} goes from {bounds.min} to {bounds.max}")
    with np.errstate(over="ignore"):  # a float beyond FP16 or FP32 becomes infinite, as the types define
        return array.astype(target)


def _texts(name: str, data: list[object]) -> tuple[list[bytes], tuple[int, ...]]:
    """Flat elements and shape of nested lists of strings."""
    shape: list[int] = []
    level: list[object] = data
    while level and isinstance(level[0], list):
        lengths = {len(item) if isinstance(item, list) else -1 for item in level}
        if len(lengths) != 1 or -1 in lengths or len(shape) + 2 > MAX_DIMS:
            raise InvalidInput(f"input {name!r}: data is ragged or nested too deep; expected strings")
        shape.append(len(level))
        level = [element for item in level for element in item]  # type: ignore[attr-defined]
    if not all(isinstance(element, str) for element in level):
        raise InvalidInput(f"input {name!r}: data does not hold strings only, which BYTES needs")
    if len(level) > MAX_BYTES_ELEMENTS:
        raise InvalidInput(f"input {name!r}: {len(level)} BYTES elements; expected at most {MAX_BYTES_ELEMENTS}")
    return [element.encode() for element in level], _dims(shape, len(level))  # type: ignore[attr-defined]


def _dims(cumulative: list[int], leaves: int) -> tuple[int, ...]:
    """Sizes of each dimension from the number of elements seen at each level."""
    counts = [1, *cumulative, leaves]
    return tuple(after // before if before else 0 for before, after in pairwise(counts))


def _nested(flat: list[str], shape: tuple[int, ...]) -> Any:
    """`flat` as nested lists of that shape."""
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape).tolist()


def outputs_to_json(outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """All of them, by name."""
    return {name: to_json(tensor) for name, tensor in outputs.items()}
