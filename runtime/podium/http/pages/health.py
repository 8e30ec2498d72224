"""Health: what kubelets, load balancers and people ask."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from podium.serving.revisions.residents import Residents


def add_health(app: FastAPI, residents: Residents) -> None:
    """Live, ready and startup; `/health` and `/v1/health` say it of every resource."""

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

    @app.get("/health")
    @app.get("/v1/health")
    async def summary() -> JSONResponse:
        """Health of every resource; 503 unless all can answer."""
        is_ready = residents.is_ready()
        return JSONResponse(_summary(residents, is_ready), 200 if is_ready else 503)


def _summary(residents: Residents, is_ready: bool) -> dict[str, Any]:
    models = {
        resident.resource.name: {
            "kind": resident.resource.kind.value,
            "ready": resident.is_ready(),
            "in_flight": sum(hosted.live.in_flight for hosted in resident.hosted if hosted.live is not None),
        }
        for resident in residents
    }
    return {"status": "ok" if is_ready else "unavailable", "models": models}
