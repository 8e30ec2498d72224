"""Routes of the protocols and of the merged systems that change what is loaded: here the resource decides that."""

from fastapi import FastAPI

from podium.http.transport.errors import DeclaredElsewhereError

ADVICE = (
    "what is loaded follows the resource: change it with kubectl apply (in a cluster) or in the file that podium serve "
    "reads, and it is loaded, warmed and swapped in without a lost request"
)
PATHS = (
    "/v2/repository/models/{name}/load",
    "/v2/repository/models/{name}/unload",
    "/v1/models:load",
    "/v1/models:unload",
    "/v1/models/{name}:activate",
    "/v1/{name}/reload",
)


def add_refused(app: FastAPI) -> None:
    """Answers 409, and says what to do."""
    for path in PATHS:
        app.post(path, status_code=409)(_refuse)


async def _refuse() -> None:
    """Refused: what is loaded follows the resource."""
    raise DeclaredElsewhereError(ADVICE)
