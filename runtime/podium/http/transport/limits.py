"""Bounds on what a client may send, checked before anything of that size is allocated."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes."""

    body_bytes: int = 64 << 20
    """The whole request body."""
    json_bytes: int = 8 << 20
    """JSON, or the JSON part of a binary request."""
    body_grace_s: float = 10.0
    """How long a body may take whatever its size; beyond that it must come at `MIN_BODY_RATE` on average."""


MIN_BODY_RATE = 64 << 10
"""Bytes per second: a slower body holds memory that others wait for."""
SEND_GRACE_S = 30.0
"""How long an answer that is sent from shared memory may lie whatever its size; beyond that its reader must take
`MIN_BODY_RATE` on average."""
MAX_PRIORITY = 9
"""The least urgent; 1 is the most urgent, 0 the model's own."""
MAX_TIMEOUT_MS = 3_600_000
MAX_DEPTH = 16
"""Levels of nesting of a JSON document."""
MAX_HEADERS = 100
MAX_HEAD_BYTES = 64 << 10
MAX_URL_BYTES = 8 << 10
MAX_CHUNKS = 1 << 16
MAX_CONNECTIONS = 4096
HEAD_TIMEOUT_S = 10.0
"""From the first byte of a request's head to its last."""
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
"""Request ids that are echoed; another one is replaced, since it goes into logs."""
