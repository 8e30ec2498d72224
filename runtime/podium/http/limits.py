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
    body_timeout_s: float = 60.0
    """Longest time that a body may take to come in."""


MAX_TIMEOUT_MS = 3_600_000
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
"""Request ids that are echoed; another one is replaced, since it goes into logs."""
TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
"""W3C trace context, level 1: all-zero ids and version ff are no trace."""
