"""The FastAPI application of the data port: everything but inference. Every error has the one body."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from podium.errors import InvalidInput, PodiumError
from podium.http.inference.routes import right_path
from podium.http.pages.catalogue import add_catalogue
from podium.http.pages.docs_page import add_docs
from podium.http.pages.health import add_health
from podium.http.pages.protocol_v2 import add_protocol
from podium.http.pages.refused import add_refused
from podium.http.transport.api_keys import ApiKeys
from podium.http.transport.asgi import error_answer
from podium.http.transport.errors import MethodNotAllowedError, UnknownRouteError, WrongKindError, answer_for
from podium.serving.revisions.residents import Residents

RUNTIME_VERSION = version("podium")


def cold_app(
    residents: Residents, metrics: CollectorRegistry, *, with_docs: bool = True, keys: ApiKeys | None = None
) -> FastAPI:
    """Every route but inference. `keys`: what they guard is described so, and guarded where it is answered here."""
    app = FastAPI(
        title="Podium",
        version=RUNTIME_VERSION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    add_health(app, residents)
    add_catalogue(app, residents)
    add_protocol(app, residents, RUNTIME_VERSION, keys)
    add_refused(app)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics_page(request: Request) -> Response:
        """Prometheus text, or OpenMetrics (with exemplars) where it is asked for."""
        generate, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(generate(metrics), headers={"content-type": content_type})

    if with_docs:
        add_docs(app, residents, with_keys=keys is not None)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return _error(request, _typed(request, error, residents))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        detail: Mapping[str, Any] = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        return _error(request, InvalidInput(f"{where}: {detail['msg']}"))

    @app.exception_handler(PodiumError)
    async def known(request: Request, error: PodiumError) -> Response:
        return _error(request, error)

    return app


def _typed(request: Request, error: HTTPException, residents: Residents) -> Exception:
    # 405 as well: GET /v1/models/{name} matches whatever stands behind the colon.
    right = right_path(request.url.path, residents.router.table.routes)
    if error.status_code in (404, 405) and right is not None:
        return WrongKindError(right[1].split("/")[3].partition(":")[0], *right)
    if error.status_code == 404:
        return UnknownRouteError(f"no route {request.url.path[:200]!r}; GET /docs lists them")
    if error.status_code == 405:
        return MethodNotAllowedError(request.method, (error.headers or {}).get("Allow", "GET"))
    return InvalidInput(str(error.detail))


def _error(request: Request, error: Exception) -> Response:
    request_id = request.scope.get("state", {}).get("request_id", "")
    answer = error_answer(answer_for(error), request_id, plain=request.url.path.startswith("/v2"))
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, answer.content_type.decode())
