"""Open Inference Protocol v2 REST, all but inference: metadata, readiness, and the repository's index."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from podium.errors import InvalidInput
from podium.http.pages.catalogue import specs
from podium.http.transport.api_keys import ApiKeys
from podium.http.transport.asgi import fields_of
from podium.http.transport.errors import BodyTooLargeError
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.residents import Residents
from podium.serving.revisions.routing import Route
from podium_crds.assignment import ResourceKind, RevisionState

EXTENSIONS = ["binary_tensor_data", "model_repository"]
ANY_KIND = (ResourceKind.MODEL, ResourceKind.PIPELINE)
MAX_INDEX_BODY_BYTES = 4096
STATES = {
    RevisionState.ACTIVE: "READY",
    RevisionState.READY: "READY",
    RevisionState.DRAINING: "UNLOADING",
    RevisionState.FAILED: "UNAVAILABLE",
}
"""States of the repository extension; any other one is LOADING."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """A version that is here, as the repository extension tells it."""

    name: str
    version: str
    state: str
    reason: str
    """Of a failure; its message has paths and a traceback, which are for the resource's owner (status, log)."""


def indexed(residents: Residents, *, only_ready: bool) -> Iterator[Indexed]:
    """Every version, or those that answer."""
    for resident in residents:
        for hosted in resident.hosted:
            state = STATES.get(hosted.state, "LOADING")
            if state == "READY" or not only_ready:
                reason = hosted.failure.reason.value if hosted.failure and state == "UNAVAILABLE" else ""
                yield Indexed(resident.resource.name, hosted.spec.version, state, reason)


def add_protocol(app: FastAPI, residents: Residents, version: str, keys: ApiKeys | None) -> None:
    """The protocol's routes. `keys`: those that open the index, which tells of versions that are not served too."""

    @app.get("/v2")
    @app.get("/v2/", include_in_schema=False)
    async def server() -> dict[str, Any]:
        """Open Inference Protocol: server metadata."""
        return {"name": "podium", "version": version, "extensions": EXTENSIONS}

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{model_version}")
    async def metadata(name: str, model_version: str | None = None) -> dict[str, Any]:
        """Open Inference Protocol: model metadata."""
        route = residents.router.table.find(name, *ANY_KIND)
        revision = _revision(route, model_version)
        return {
            "name": name,
            "versions": list(dict.fromkeys(loaded.spec.version for loaded in route.loaded)),
            "platform": platform(revision),
            "inputs": specs(revision, "inputs"),
            "outputs": specs(revision, "outputs"),
        }

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{model_version}/ready")
    async def model_ready(name: str, model_version: str | None = None) -> JSONResponse:
        """Open Inference Protocol: whether a model can answer."""
        route = residents.router.table.find(name, *ANY_KIND)
        is_ready = bool(route.targets) if model_version is None else _revision(route, model_version) is not None
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    @app.post("/v2/repository/index", tags=["repository"])
    async def index(request: Request) -> list[Indexed]:
        """Model repository extension: every version that is here, with `{"ready": true}` only those that answer."""
        if keys is not None:
            request.state.key = keys.name_of(fields_of(request.scope))
        return list(indexed(residents, only_ready=await _only_ready(request)))


async def _only_ready(request: Request) -> bool:
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > MAX_INDEX_BODY_BYTES:
            raise BodyTooLargeError(f"expected at most {MAX_INDEX_BODY_BYTES} bytes")
    if not raw.strip():
        return False
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    wanted = body.get("ready", False) if isinstance(body, dict) else None
    if not isinstance(wanted, bool):
        raise InvalidInput('expected {"ready": true}, {"ready": false} or no body')
    return wanted


def _revision(route: Route, model_version: str | None) -> LiveRevision | None:
    return route.primary if model_version is None else route.of_version(model_version)


def platform(revision: LiveRevision | None) -> str:
    if revision is None:
        return ""
    if revision.spec.graph is not None:
        return "podium_pipeline"
    return f"podium_{revision.spec.members[0].engine.kind.value.lower()}"
