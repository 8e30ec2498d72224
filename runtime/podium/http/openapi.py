"""`/openapi.json`: OpenAPI 3.1 of this process as it is now, inference described by the real contracts. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from podium.http.forms.table import BODY_FORMS, Form
from podium.http.limits import MAX_TIMEOUT_MS
from podium.serving.contract import Contract, Specs
from podium.serving.live import LiveRevision
from podium.serving.named_tensors import MAX_TENSORS, NAME
from podium_crds.assignment import ResourceKind
from podium_crds.tensors import MAX_DIMS, DType, TensorSpec

Json = dict[str, Any]

_INTEGERS = {f"{sign}INT{bits}": (bits, sign) for bits in (8, 16, 32, 64) for sign in ("", "U")}
_ERROR_FACTS: Json = {
    "code": {"type": "string"},
    "retryable": {"type": "boolean"},
    "request_id": {"type": "string"},
}
SCHEMAS: Json = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "retryable", "request_id"],
                "properties": {**_ERROR_FACTS, "message": {"type": "string"}},
            }
        },
    },
    "ProtocolError": {
        "type": "object",
        "required": ["error", "code", "retryable", "request_id"],
        "properties": {**_ERROR_FACTS, "error": {"type": "string"}},
    },
}
SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def document(base: Mapping[str, Any], revisions: Iterable[LiveRevision], *, with_keys: bool) -> Json:
    """The document: `base`, which describes every other route, and the inference routes of these revisions."""
    paths: Json = {path: {m: dict(o) for m, o in operations.items()} for path, operations in base["paths"].items()}
    for revision in revisions:
        paths.update(_paths(revision))
    for path, operations in paths.items():
        for operation in operations.values():
            _add_errors(operation, "ProtocolError" if path.startswith("/v2") else "Error")
    document = {"openapi": base["openapi"], "info": base["info"], "paths": paths, "components": {"schemas": SCHEMAS}}
    if with_keys:
        document["components"]["securitySchemes"] = SECURITY
        for operations in paths.values():
            if "inference" in operations.get("post", {}).get("tags", ()):
                operations["post"]["security"] = [{name: []} for name in SECURITY]
    return document


def _add_errors(operation: Json, schema: str) -> None:
    responses = {status: answer for status, answer in operation.get("responses", {}).items() if status != "422"}
    error = {"description": "Error", "content": _json({"$ref": f"#/components/schemas/{schema}"})}
    operation["responses"] = {**responses, "4XX": error, "5XX": error}
    if "ready" in operation.get("operationId", "") or "health" in operation.get("operationId", ""):
        operation["responses"]["503"] = {"description": "Not ready", "content": _json({"type": "object"})}


def _paths(revision: LiveRevision) -> Json:
    name, contract = revision.resource.name, revision.contract
    is_pipeline = revision.resource.kind is ResourceKind.PIPELINE
    named = f"/v1/pipelines/{name}:run" if is_pipeline else f"/v1/models/{name}:predict"
    return {
        named: {"post": _operation(f"predict_{name}", f"Ask {name}", _named_bodies(contract), _named_answer(contract))},
        f"/v2/models/{name}/infer": {
            "post": _operation(
                f"infer_{name}",
                f"Ask {name} by the Open Inference Protocol",
                _json(_infer_request(contract)),
                {"type": "object", "required": ["model_name", "model_version", "outputs"]},
            )
        },
    }


def _operation(operation_id: str, summary: str, bodies: Json, answer: Json) -> Json:
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": ["inference"],
        "requestBody": {"required": True, "content": bodies},
        "responses": {"200": {"description": "The outputs", "content": _json(answer)}},
    }


def _named_bodies(contract: Contract) -> Json:
    bodies = _json(_named_request(contract))
    if len(contract.required) == 1:
        wanted = next(spec for name, spec in contract.inputs.items() if name in contract.required)
        if wanted is not None:
            bodies |= {kind: {} for kind in _media_types(wanted)}
    return {**bodies, "application/msgpack": {}}


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
    return {"oneOf": [data, *full]} if spec is not None else {"oneOf": full, "required": ["dtype"]}


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


def _named_answer(contract: Contract) -> Json:
    outputs: Json = {"type": "object"}
    if contract.outputs:
        outputs |= {
            "properties": {name: {"type": "object"} for name in contract.outputs},
            "additionalProperties": False,
        }
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["model", "version", "revision", "outputs"],
        "properties": {"model": text, "version": text, "revision": text, "outputs": outputs},
    }


def _infer_request(contract: Contract) -> Json:
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


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
