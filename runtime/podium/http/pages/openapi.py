"""`/openapi.json`: OpenAPI 3.1 of this process as it is now, inference described by the real contracts. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from podium.http.inference.routes import OPENAI_PATHS
from podium.http.pages.openapi_schemas import (
    TEXT,
    Json,
    batch_answer,
    batch_request,
    content,
    generate_request,
    infer_request,
    named_answer,
    named_bodies,
    single_answer,
    single_request,
    sole_spec,
)
from podium.serving.revisions.live import LiveRevision
from podium_crds.assignment import EngineKind, ResourceKind

EVENTS = "text/event-stream"
FRAMES = "application/x-podium-rpc"
EVENT: Json = {"type": "object", "properties": {"event": TEXT, "data": TEXT}}
"""One server-sent event."""
BINARY: Json = {"type": "string", "format": "binary"}
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
    "OpenAIError": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "object", "required": ["message", "type", "code"]}},
    },
}
KEYED = frozenset({"inference", "repository"})
"""Tags of the operations that want an API key where the server has some."""
SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def document(base: Mapping[str, Any], revisions: Iterable[LiveRevision], *, with_keys: bool) -> Json:
    """The document: `base`, which describes every other route, and the inference routes of these revisions."""
    paths: Json = {path: {m: dict(o) for m, o in operations.items()} for path, operations in base["paths"].items()}
    loaded = tuple(revisions)
    described = [*_process_wide(loaded), *(found for revision in loaded for found in _operations(revision))]
    paths.update({path: {"post": operation} for path, operation in described})
    for path, operations in paths.items():
        for operation in operations.values():
            _add_errors(operation, _error_content(path))
    document = {"openapi": base["openapi"], "info": base["info"], "paths": paths, "components": {"schemas": SCHEMAS}}
    if with_keys:
        document["components"]["securitySchemes"] = SECURITY
        for operations in paths.values():
            if KEYED & set(operations.get("post", {}).get("tags", ())):
                operations["post"]["security"] = [{name: []} for name in SECURITY]
    return document


def _error_content(path: str) -> Json:
    """The error body of a route, in the form that its clients know."""
    schema = "ProtocolError" if path.startswith("/v2") else "OpenAIError" if path in OPENAI_PATHS else "Error"
    body = content({"$ref": f"#/components/schemas/{schema}"})
    return body | content(BINARY, FRAMES) if path.startswith("/rpc/") else body


def _add_errors(operation: Json, error_content: Json) -> None:
    responses = {status: answer for status, answer in operation.get("responses", {}).items() if status != "422"}
    error = {"description": "Error", "content": error_content}
    operation["responses"] = {**responses, "4XX": error, "5XX": error}
    if "ready" in operation.get("operationId", "") or "health" in operation.get("operationId", ""):
        operation["responses"]["503"] = {"description": "Not ready", "content": content({"type": "object"})}


def _process_wide(revisions: Iterable[LiveRevision]) -> Iterator[tuple[str, Json]]:
    """Routes whose path names no resource."""
    request_id: Json = {"name": "request_id", "in": "path", "required": True, "schema": {**TEXT, "maxLength": 128}}
    cancelled = {"type": "object", "required": ["cancelled"], "properties": {"cancelled": TEXT}}
    yield (
        "/rpc/{request_id}/cancel",
        {
            "operationId": "cancel_rpc",
            "summary": "Cancel a call in binary frames by its request id",
            "tags": ["inference"],
            "parameters": [request_id],
            "responses": {"202": {"description": "It is being cancelled", "content": content(cancelled)}},
        },
    )
    names = sorted(revision.resource.name for revision in revisions if _is_language_model(revision))
    for path in OPENAI_PATHS if names else ():
        body: Json = {"type": "object", "required": ["model"], "properties": {"model": {"enum": names}}}
        answers = content({"type": "object", "required": ["id", "choices"]}) | content(EVENT, EVENTS)
        what = path.removeprefix("/v1/").replace("/", "_")
        yield path, _operation(what, "As OpenAI's API has it (docs/llm.md)", content(body), answers)


def _operations(revision: LiveRevision) -> Iterator[tuple[str, Json]]:
    """Every route that asks this resource, with what it reads and answers."""
    name, contract, version = revision.resource.name, revision.contract, revision.spec.version
    is_pipeline = revision.resource.kind is ResourceKind.PIPELINE
    kind, verb = ("pipelines", "run") if is_pipeline else ("models", "predict")
    if _is_language_model(revision):
        return
    for base, suffix in ((f"/v1/{kind}/{name}", ""), (f"/v1/{kind}/{name}/versions/{version}", "_version")):
        bodies, answers = _named(revision)
        yield f"{base}:{verb}", _operation(f"predict_{name}{suffix}", f"Ask {name}", bodies, answers)
        if revision.streams:
            said = f"Ask {name} for an answer in chunks"
            yield f"{base}:stream", _operation(f"stream_{name}{suffix}", said, bodies, content(EVENT, EVENTS))
    for base, suffix in ((f"/v2/models/{name}", ""), (f"/v2/models/{name}/versions/{version}", "_version")):
        said = f"Ask {name} by the Open Inference Protocol"
        answer: Json = {"type": "object", "required": ["model_name", "model_version", "outputs"]}
        yield (
            f"{base}/infer",
            _operation(f"infer_{name}{suffix}", said, content(infer_request(contract)), content(answer)),
        )
        if revision.streams and contract.inputs:
            said = f"Ask {name} by Triton's generate extension"
            bodies, answers = content(generate_request(contract)), content(EVENT, EVENTS)
            yield f"{base}/generate_stream", _operation(f"generate_{name}{suffix}", said, bodies, answers)
    yield from _aliases(revision)


def _aliases(revision: LiveRevision) -> Iterator[tuple[str, Json]]:
    """The shorter forms, for models with one input, and binary frames."""
    name, spec = revision.resource.name, sole_spec(revision.contract)
    is_model = revision.resource.kind is ResourceKind.MODEL
    if spec is not None and is_model:
        bodies, answers = content(batch_request(spec)), content(batch_answer())
        yield f"/v1/models/{name}:batch", _operation(f"batch_{name}", f"Ask {name} with items", bodies, answers)
    if spec is not None and name not in ("models", "pipelines"):
        bodies, answers = content(single_request(spec)), content(single_answer())
        yield f"/v1/{name}/predict", _operation(f"single_{name}", f"Ask {name} with one input", bodies, answers)
    frames: Json = {FRAMES: {}, "application/octet-stream": {}}  # any bytes are frames, or are refused as none
    call = _operation(f"rpc_{name}", f"Ask {name} in binary frames (docs/rpc.md)", frames, content(BINARY, FRAMES))
    yield f"/rpc/{name}", call


def _named(revision: LiveRevision) -> tuple[Json, Json]:
    """Bodies and answers of `:predict` and `:run`, by content type."""
    codecs = revision.codecs
    answers = content(named_answer(revision.contract))
    answers |= {"application/msgpack": {}, "application/x-npy": {}}
    answers |= {media_type: {} for media_type in sorted(codecs.encodes if codecs else ())}
    if revision.streams:
        answers |= content(EVENT, EVENTS)
    return named_bodies(revision.contract, codecs.decodes if codecs else ()), answers


def _is_language_model(revision: LiveRevision) -> bool:
    """It is asked by OpenAI's routes, which are described with those of the process."""
    return revision.spec.graph is None and revision.spec.members[0].engine.kind is EngineKind.VLLM


def _operation(operation_id: str, summary: str, bodies: Json, answers: Json) -> Json:
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": ["inference"],
        "requestBody": {"required": True, "content": bodies},
        "responses": {"200": {"description": "The answer", "content": answers}},
    }
