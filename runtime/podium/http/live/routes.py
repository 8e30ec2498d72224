"""Routes of the live page: behind the admin token in a pod, behind an address that cannot be guessed on a laptop."""

import hmac
import secrets
from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from podium.http.live.page import document, headers
from podium.http.live.view import shown, structure_of, view
from podium.serving.revisions.flow import FlowMeter
from podium.serving.revisions.residents import Residents
from podium_crds.keys import ADMIN_FIGURES_PATH, ADMIN_PAGE_PATH

MAX_KEPT = 4


class LivePage:
    """The page of one process. Its drawing is made once for each structure, however many look at it."""

    def __init__(self, residents: Residents, clock: Callable[[], float]) -> None:
        self._residents = residents
        self._meter = FlowMeter(residents.loaded, clock)
        self._drawn: dict[str, str] = {}

    def document(self, request: Request) -> Response:
        """HTML; as one JSON string under `html` where JSON is asked for, as the API server's client does."""
        revisions = shown(self._residents)
        structure = structure_of(revisions)
        html = self._drawn.get(structure)
        if html is None:
            while len(self._drawn) >= MAX_KEPT:
                del self._drawn[next(iter(self._drawn))]
            html = self._drawn[structure] = document(revisions, structure)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"html": html}, headers=headers())
        return HTMLResponse(html, headers=headers())

    def figures(self) -> Response:
        """What the page's script fills in."""
        return JSONResponse(view(self._residents, self._meter).wire(), headers={"cache-control": "no-store"})


def add_live_page(app: FastAPI, page: LivePage, refusal: Callable[[Request], Response | None]) -> None:
    """The page and its figures. `refusal`: the answer to who may not see them, None for who may."""

    @app.get(ADMIN_PAGE_PATH)
    async def document_of_the_page(request: Request) -> Response:
        return refusal(request) or page.document(request)

    @app.get(ADMIN_FIGURES_PATH)
    async def figures(request: Request) -> Response:
        return refusal(request) or page.figures()


def local_app(page: LivePage, key: str) -> FastAPI:
    """For loopback: the page under `/KEY/live`, and no other answer than 404 to who does not have the key."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def is_known(given: str) -> bool:
        return hmac.compare_digest(given.encode(), key.encode())

    @app.get("/{given}/live")
    async def document_of_the_page(given: str, request: Request) -> Response:
        return page.document(request) if is_known(given) else Response(status_code=404)

    @app.get("/{given}/live/figures")
    async def figures(given: str) -> Response:
        return page.figures() if is_known(given) else Response(status_code=404)

    return app


def new_key() -> str:
    """What an address on loopback is kept from other users and other pages by."""
    return secrets.token_urlsafe(18)
