"""What is served: resources, revisions with their share of traffic, contracts, counts."""

import time
from typing import Any

from fastapi import FastAPI

from podium.serving.revisions.errors import UnknownModelError
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.resident import Resident
from podium.serving.revisions.residents import Residents
from podium_crds.assignment import ResourceKind
from podium_crds.tensors import TensorSpec

STARTED = int(time.time())
"""What clients of the OpenAI API are told as the time that a model was made: nothing here knows that."""


def add_catalogue(app: FastAPI, residents: Residents) -> None:
    """`/v1/models`, `/v1/pipelines` and what is known of each."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What is served, models and pipelines."""
        described = [_described(resident, residents) for resident in residents]
        return {"object": "list", "data": described}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return _described(_find(residents, name, ResourceKind.MODEL), residents)

    @app.get("/v1/pipelines/{name}")
    async def pipeline(name: str) -> dict[str, Any]:
        """One pipeline."""
        return _described(_find(residents, name, ResourceKind.PIPELINE), residents)

    @app.get("/v1/models/{name}/active")
    async def active(name: str) -> dict[str, Any]:
        """The version that takes most of the traffic."""
        described = _described(_find(residents, name, ResourceKind.MODEL), residents)
        return {
            "name": name,
            "version": described["version"],
            "revision": described["revision"],
            "loaded": described["version"] is not None,
        }

    @app.get("/v1/models/{name}/stats")
    async def stats(name: str) -> dict[str, Any]:
        """What each loaded revision is doing."""
        resident = _find(residents, name, ResourceKind.MODEL)
        loaded = [hosted.live for hosted in resident.hosted if hosted.live is not None]
        return {
            "name": name,
            "revisions": [
                {"name": live.name, "version": live.spec.version, "in_flight": live.in_flight} for live in loaded
            ],
        }


def specs(revision: LiveRevision | None, side: str) -> list[dict[str, Any]]:
    """Inputs or outputs in the words of the Open Inference Protocol."""
    if revision is None:
        return []
    declared: dict[str, TensorSpec | None] = dict(getattr(revision.contract, side))
    return [
        {"name": name, "datatype": spec.dtype.value if spec else "", "shape": list(spec.shape) if spec else []}
        for name, spec in declared.items()
    ]


def _find(residents: Residents, name: str, kind: ResourceKind) -> Resident:
    for resident in residents:
        if resident.resource.name == name and resident.resource.kind is kind:
            return resident
    residents.router.table.find(name, kind)
    raise UnknownModelError(f"{name} has just been removed")


def _described(resident: Resident, residents: Residents) -> dict[str, Any]:
    resource = resident.resource
    route = residents.router.table.routes.get((resource.kind, resource.name))
    primary = route.primary if route else None
    return {
        "id": resource.name,
        "object": "model",
        "created": STARTED,
        "owned_by": resource.namespace,
        "kind": resource.kind.value,
        "ready": resident.is_ready(),
        "version": primary.spec.version if primary else None,
        "revision": primary.name if primary else None,
        "revisions": [
            {"name": h.name, "version": h.spec.version, "state": h.state.value, "weight": resident.weight(h)}
            for h in resident.hosted
        ],
        "inputs": specs(primary, "inputs"),
        "outputs": specs(primary, "outputs"),
    }
