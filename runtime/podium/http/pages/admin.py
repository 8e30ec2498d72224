"""The admin port: the operator puts assignments and gets reports. Open to nobody without this pod's own token."""

import hmac
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from podium.http.live.routes import LivePage, add_live_page
from podium.serving.revisions.assignments import AssignmentDesk
from podium.serving.revisions.errors import AssignmentRefusedError
from podium.telemetry.logging import get_logger
from podium_crds.assignment import MAX_ASSIGNMENT_BYTES, Assignment, Report
from podium_crds.keys import ADMIN_ASSIGNMENT_PATH, ADMIN_REPORT_PATH, HEADER_ADMIN_TOKEN
from podium_crds.token import admin_token

log = get_logger(__name__)

KEY_FILES = ("current", "previous")
MAX_KEY_BYTES = 4096
BEARER = "bearer "


class AdminTokens:
    """The tokens that open this pod, from the mounted admin key; read again whenever the mount changes. Blocking, but
    only a stat of two small files on a memory file system."""

    def __init__(self, key_dir: Path, pod_uid: str) -> None:
        self._key_dir = key_dir
        self._pod_uid = pod_uid
        self._seen: tuple[tuple[int, int] | None, ...] = ()
        self._tokens: tuple[bytes, ...] = ()

    def admit(self, authorization: str | None) -> bool:
        """Whether the Authorization header carries a token of the current or the previous key. Constant time."""
        self._refresh()
        given = authorization or ""
        token = given[len(BEARER) :].strip().encode() if given.lower().startswith(BEARER) else b""
        matches = [hmac.compare_digest(token, known) for known in self._tokens]
        return any(matches)

    def _refresh(self) -> None:
        seen = tuple(_identity(self._key_dir / name) for name in KEY_FILES)
        if seen != self._seen:
            self._tokens = tuple(filter(None, (self._token(self._key_dir / name) for name in KEY_FILES)))
            self._seen = seen

    def _token(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as handle:
                return admin_token(handle.read(MAX_KEY_BYTES), self._pod_uid).encode()
        except OSError:
            return None
        except ValueError as error:
            log.warning("admin_key_unusable", file=path.name, reason=str(error))
            return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def admin_app(desk: AssignmentDesk, tokens: AdminTokens, report: Callable[[], Report], page: LivePage) -> FastAPI:
    """The application of the admin port. Every error is `{"error": "…"}`."""
    app = FastAPI(title="Podium admin", docs_url=None, redoc_url=None, openapi_url=None)

    def refusal(request: Request) -> Response | None:
        if tokens.admit(_authorization(request)):
            return None
        return _error(401, "the bearer token is not the one of this pod")

    @app.put(ADMIN_ASSIGNMENT_PATH)
    async def put_assignment(request: Request) -> Response:
        if (refused := refusal(request)) is not None:
            return refused
        body = await _body(request)
        if body is None:
            return _error(413, f"an assignment has at most {MAX_ASSIGNMENT_BYTES} bytes")
        try:
            assignment = Assignment.model_validate_json(body)
        except ValidationError as error:
            return _error(422, f"not an assignment: {_first(error)}")
        if assignment.pod_uid is None:
            return _error(422, "podUid is missing: a push names the pod it is for")
        try:
            await desk.push(assignment)
        except AssignmentRefusedError as error:
            return _error(409, str(error))
        return JSONResponse(report().wire())

    @app.get(ADMIN_REPORT_PATH)
    async def get_report(request: Request) -> Response:
        return refusal(request) or JSONResponse(report().wire())

    add_live_page(app, page, refusal)
    return app


def _authorization(request: Request) -> str | None:
    token = request.headers.get(HEADER_ADMIN_TOKEN)
    return f"Bearer {token}" if token is not None else request.headers.get("authorization")


async def _body(request: Request) -> bytes | None:
    """The body; None above the limit."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_ASSIGNMENT_BYTES:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
