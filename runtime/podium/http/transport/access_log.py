"""The access log: one event for each answer, no payload, and a key's name in place of the key."""

import logging
from dataclasses import dataclass

from podium.telemetry.logging import get_logger

LOGGER = "podium.access"
MAX_PATH_CHARS = 256
log = get_logger(LOGGER)


@dataclass(frozen=True, slots=True)
class Access:
    """One answered request. The path is without its query."""

    method: str
    path: str
    status: int
    duration_s: float
    request_id: str
    trace_id: str
    revision: str | None = None
    key: str | None = None


class AccessLog:
    """Logs at INFO whatever the level of the rest, or nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        if enabled:
            logging.getLogger(LOGGER).setLevel(logging.INFO)

    def write(self, access: Access) -> None:
        """No effect where it is switched off."""
        if not self.enabled:
            return
        optional = {"revision": access.revision, "key": access.key}
        log.info(
            "request",
            method=access.method[:20],
            path=access.path[:MAX_PATH_CHARS],
            status=access.status,
            duration_ms=round(access.duration_s * 1000, 3),
            request_id=access.request_id,
            trace_id=access.trace_id,
            **{name: value for name, value in optional.items() if value is not None},
        )
