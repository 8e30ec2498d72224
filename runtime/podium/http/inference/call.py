"""`Call`: one request under way, as route families of their own have it."""

from collections.abc import Callable
from dataclasses import dataclass

from podium.http.transport.asgi import Fields, Headers, Receive, Scope, Send
from podium.serving.revisions.admission import Admitted


@dataclass(frozen=True, slots=True)
class Call:
    """One request under way."""

    scope: Scope
    fields: Fields
    receive: Receive
    send: Send
    admitted: Admitted
    request_id: str
    headers: Callable[[], Headers]
    """What every answer carries, as known at the time."""
    key: str | None = None
    """Name of the API key; None where none is needed."""
