"""The FastAPI application of the data port: health, what is served, protocol metadata, metrics."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from podium.http.errors import answer_for
from podium.serving.errors import UnknownModelError
from podium.serving.live import LiveRevision
from podium.serving.resident import Resident
from podium.serving.residents import Residents
from podium.serving.routing import Route
from podium_crds.assignment import ResourceKind
from podium_crds.tensors import TensorSpec

EXTENSIONS = ["binary_tensor_data"]
ANY_KIND = (ResourceKind.MODEL, ResourceKind.PIPELINE)
RUNTIME_VERSION = version("podium")


def cold_app(residents: Residents, metrics: CollectorRegistry) -> FastAPI:
    """Every route but inference."""
    app = FastAPI(title="Podium", version=RUNTIME_VERSION, docs_url=None, redoc_url=None)
    _health(app, residents)
    _catalogue(app, residents)
    _protocol(app, residents)

    @app.get("/metrics")
    async def metrics_page() -> Response:
        """Prometheus text."""
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return _error(
            request, error.status_code, "not_found" if error.status_code == 404 else "bad_request", error.detail
        )

    @app.exception_handler(UnknownModelError)
    async def unknown(request: Request, error: UnknownModelError) -> Response:
        answer = answer_for(error)
        return _error(request, answer.status, answer.code, answer.message)

    return app


def _error(request: Request, status: int, code: str, message: str) -> Response:
    if request.url.path.startswith("/v2/"):
        return JSONResponse({"error": message}, status)
    request_id = request.scope.get("state", {}).get("request_id", "")
    return JSONResponse({"error": {"code": code, "message": message, "request_id": request_id}}, status)


def _health(app: FastAPI, residents: Residents) -> None:
    @app.get("/health/live")
    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """The event loop turns: that this is answered says so."""
        return {"live": True}

    @app.get("/health/ready")
    @app.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        """Whether clients may be sent here."""
        is_ready = residents.is_ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/health/startup")
    async def startup() -> dict[str, bool]:
        """The process is up; loading a model is no part of it, so that a slow load is not killed."""
        return {"started": True}


def _catalogue(app: FastAPI, residents: Residents) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What is served, models and pipelines."""
        return {"object": "list", "data": [_described(resident, residents) for resident in residents]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return _one(residents, name, ResourceKind.MODEL)

    @app.get("/v1/pipelines/{name}")
    async def pipeline(name: str) -> dict[str, Any]:
        """One pipeline."""
        return _one(residents, name, ResourceKind.PIPELINE)


def _one(residents: Residents, name: str, kind: ResourceKind) -> dict[str, Any]:
    for resident in residents:
        if resident.resource.name == name and resident.resource.kind is kind:
            return _described(resident, residents)
    residents.router.table.find(name, kind)
    raise UnknownModelError(f"{name} has just been removed")


def _described(resident: Resident, residents: Residents) -> dict[str, Any]:
    resource = resident.resource
    route = residents.router.table.routes.get((resource.kind, resource.name))
    primary = route.primary if route else None
    return {
        "id": resource.name,
        "object": "model",
        "kind": resource.kind.value,
        "ready": resident.is_ready(),
        "version": primary.spec.version if primary else None,
        "revision": primary.name if primary else None,
        "revisions": [
            {"name": h.name, "version": h.spec.version, "state": h.state.value, "weight": resident.weight(h)}
            for h in resident.hosted
        ],
        "inputs": _specs(primary, "inputs"),
        "outputs": _specs(primary, "outputs"),
    }


def _protocol(app: FastAPI, residents: Residents) -> None:
    @app.get("/v2")
    @app.get("/v2/", include_in_schema=False)
    async def server() -> dict[str, Any]:
        """Open Inference Protocol: server metadata."""
        return {"name": "podium", "version": RUNTIME_VERSION, "extensions": EXTENSIONS}

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{model_version}")
    async def metadata(name: str, model_version: str | None = None) -> dict[str, Any]:
        """Open Inference Protocol: model metadata."""
        route = residents.router.table.find(name, *ANY_KIND)
        revision = _revision(route, model_version)
        return {
            "name": name,
            "versions": list(dict.fromkeys(loaded.spec.version for loaded in route.loaded)),
            "platform": _platform(revision),
            "inputs": _specs(revision, "inputs"),
            "outputs": _specs(revision, "outputs"),
        }

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{model_version}/ready")
    async def model_ready(name: str, model_version: str | None = None) -> JSONResponse:
        """Open Inference Protocol: whether a model can answer."""
        route = residents.router.table.find(name, *ANY_KIND)
        is_ready = bool(route.targets) if model_version is None else _revision(route, model_version) is not None
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)


def _revision(route: Route, model_version: str | None) -> LiveRevision | None:
    return route.primary if model_version is None else route.of_version(model_version)


def _platform(revision: LiveRevision | None) -> str:
    if revision is None:
        return ""
    if revision.spec.graph is not None:
        return "podium_pipeline"
    return f"podium_{revision.spec.members[0].engine.kind.value.lower()}"


def _specs(revision: LiveRevision | None, side: str) -> list[dict[str, Any]]:
    if revision is None:
        return []
    specs: dict[str, TensorSpec | None] = dict(getattr(revision.contract, side))
    return [
        {"name": name, "datatype": spec.dtype.value if spec else "", "shape": list(spec.shape) if spec else []}
        for name, spec in specs.items()
    ]
