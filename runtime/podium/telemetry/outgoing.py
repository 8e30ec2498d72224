"""The trace that the request of this task belongs to, for calls of other processes."""

from contextvars import ContextVar
from typing import Protocol


class Traced(Protocol):
    """A request's place in its trace."""

    @property
    def traceparent(self) -> bytes:
        """The header that names the request's own span as the parent."""

    @property
    def state(self) -> bytes | None:
        """`tracestate`, as it came."""


TRACE: ContextVar[Traced | None] = ContextVar("trace", default=None)
"""Set by the front door; None for work of no request."""
