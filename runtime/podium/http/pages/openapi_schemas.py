"""JSON Schemas of the bodies of inference, made of a contract. Pure."""

from collections.abc import Iterable
from typing import Any

from podium.errors import InvalidInput
from podium.http.forms.contents import CONTENT_TYPE, MAX_FILES
from podium.http.forms.contents import READERS as FILE_READERS
from podium.http.forms.sole import sole_input
from podium.http.forms.table import BODY_FORMS, Form
from podium.http.transport.limits import MAX_PRIORITY, MAX_TIMEOUT_MS
from podium.serving.revisions.contract import Contract, Specs
from podium.serving.revisions.named_tensors import MAX_TENSORS, NAME
from podium_crds.tensors import MAX_DIMS, DType, TensorSpec

Json = dict[str, Any]

_INTEGERS = {f"{sign}INT{bits}": (bits, sign) for bits in (8, 16, 32, 64) for sign in ("", "U")}
TEXT: Json = {"type": "string"}


def named_bodies(contract: Contract, own: Iterable[str]) -> Json:
    """What `:predict` reads, by content type. `own`: those of the model's own codecs."""
    bodies = content(_named_request(contract))
    if len(contract.required) == 1:
        wanted = next(spec for name, spec in contract.inputs.items() if name in contract.required)
        if wanted is not None:
            bodies |= {kind: {} for kind in _media_types(wanted)}
    return {**bodies, "application/msgpack": {}, **{kind: {} for kind in sorted(own)}}


def _media_types(spec: TensorSpec) -> list[str]:
    takes = {Form.RAW, Form.TEXT, Form.IMAGE} if spec.dtype is DType.BYTES else {Form.RAW, Form.NPY}
    if spec.dtype is DType.UINT8 and len(spec.shape) == 4:
        takes.add(Form.IMAGE)
    return [name.decode() for name, form in BODY_FORMS.items() if form in takes]


def _named_request(contract: Contract) -> Json:
    return {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "inputs": _tensors(contract.inputs, contract.required),
            "outputs": {"type": "array", "minItems": 1, "items": _name_of(contract.outputs)},
            "timeout_ms": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
            "priority": {"type": "integer", "minimum": 0, "maximum": MAX_PRIORITY},
        },
    }


def _tensors(specs: Specs, required: Iterable[str]) -> Json:
    if not specs:
        return {
            "type": "object",
            "minProperties": 1,
            "maxProperties": MAX_TENSORS,
            "propertyNames": {"pattern": f"^{NAME.pattern.removesuffix('Z').removesuffix(chr(92))}$"},
            "additionalProperties": _tensor(None),
        }
    return {
        "type": "object",
        "required": sorted(required),
        "additionalProperties": False,
        "properties": {name: _tensor(spec) for name, spec in specs.items()},
    }


def _tensor(spec: TensorSpec | None) -> Json:
    dtype: Json = {"enum": list(DType)} if spec is None else {"const": spec.dtype.value}
    data: Json = {"type": "array"} if spec is None else _data(spec.dtype, spec.shape)
    shape = {"type": "array", "minItems": 1, "maxItems": MAX_DIMS, "items": {"type": "integer", "minimum": 0}}
    common = {"dtype": dtype, "shape": shape}
    full = [
        {"type": "object", "additionalProperties": False, "required": ["data"], "properties": {**common, "data": data}},
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["base64", "shape"],
            "properties": {**common, "base64": {"type": "string", "contentEncoding": "base64"}},
        },
    ]
    if spec is not None:
        full.append(_files())
    return {"oneOf": [data, *full]} if spec is not None else {"oneOf": full, "required": ["dtype"]}


def _files() -> Json:
    """Files that stand for the tensor."""
    file = {"type": "string", "contentEncoding": "base64"}
    several = {"type": "array", "minItems": 1, "maxItems": MAX_FILES, "items": file}
    properties = {CONTENT_TYPE: {"enum": sorted(FILE_READERS)}, "data": {"oneOf": [file, several]}}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [CONTENT_TYPE, "data"],
        "properties": properties,
    }


def _data(dtype: DType, shape: tuple[int, ...]) -> Json:
    schema = _element(dtype)
    for dim in reversed(shape):
        size: Json = {"minItems": 1} if dim == -1 else {"minItems": dim, "maxItems": dim}
        schema = {"type": "array", "items": schema, **size}
    return schema


def _element(dtype: DType) -> Json:
    if dtype.value in _INTEGERS:
        bits, sign = _INTEGERS[dtype.value]
        low, high = (0, 2**bits - 1) if sign == "U" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return {"type": "integer", "minimum": low, "maximum": high}
    if dtype is DType.BYTES:
        return {"type": "string"}
    return {"type": "boolean"} if dtype is DType.BOOL else {"type": "number"}


def named_answer(contract: Contract) -> Json:
    """What `:predict` answers, as JSON."""
    outputs: Json = {"type": "object"}
    if contract.outputs:
        outputs |= {
            "properties": {name: {"type": "object"} for name in contract.outputs},
            "additionalProperties": False,
        }
    return {
        "type": "object",
        "required": ["model", "version", "revision", "outputs"],
        "properties": {"model": TEXT, "version": TEXT, "revision": TEXT, "outputs": outputs},
    }


def infer_request(contract: Contract) -> Json:
    """What the Open Inference Protocol reads, as JSON."""
    entry = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": _name_of(contract.inputs),
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MAX_DIMS},
            "datatype": {"enum": list(DType)},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    wanted = {"type": "object", "required": ["name"], "properties": {"name": _name_of(contract.outputs)}}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "maxLength": 256},
            "inputs": {"type": "array", "minItems": 1, "maxItems": MAX_TENSORS, "items": entry},
            "outputs": {"type": "array", "minItems": 1, "maxItems": MAX_TENSORS, "items": wanted},
            "parameters": {"type": "object"},
        },
    }


def _name_of(specs: Specs) -> Json:
    return {"enum": list(specs)} if specs else {"type": "string"}


def content(schema: Json, media_type: str = "application/json") -> Json:
    """A body of one content type."""
    return {media_type: {"schema": schema}}


def sole_spec(contract: Contract) -> TensorSpec | None:
    """The one input of the forms that name none; None where the contract has another number of them."""
    try:
        return sole_input(contract)[1]
    except InvalidInput:
        return None


def batch_request(spec: TensorSpec) -> Json:
    """What `:batch` reads."""
    data = _data(spec.dtype, spec.shape)
    return {"type": "object", "required": ["data"], "additionalProperties": False, "properties": {"data": data}}


def batch_answer() -> Json:
    """What `:batch` answers."""
    return {"type": "object", "required": ["data"], "properties": {"data": {"type": "array"}}}


def single_request(spec: TensorSpec) -> Json:
    """What `/v1/{model}/predict` reads: an item, or a batch of them."""
    value = {"anyOf": [_data(spec.dtype, spec.shape), _data(spec.dtype, spec.shape[1:])]}
    properties = {"input": value, "dtype": {"const": spec.dtype.value}}
    return {"type": "object", "required": ["input"], "additionalProperties": False, "properties": properties}


def single_answer() -> Json:
    """What `/v1/{model}/predict` answers."""
    properties: Json = {"model": TEXT, "request_id": TEXT, "output": {}}
    return {"type": "object", "required": ["model", "output", "request_id"], "properties": properties}


def generate_request(contract: Contract) -> Json:
    """What Triton's generate extension reads: inputs at the top level, as scalars where they are single elements."""
    properties = {
        name: {"anyOf": [_element(spec.dtype), _data(spec.dtype, spec.shape)]}
        for name, spec in contract.inputs.items()
        if spec is not None
    }
    parameters: Json = {"id": TEXT, "parameters": {"type": "object"}}
    return {
        "type": "object",
        "required": sorted(contract.required),
        "additionalProperties": False,
        "properties": {**parameters, **properties},
    }
