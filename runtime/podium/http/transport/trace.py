"""W3C trace context, level 1: continues a valid `traceparent`, starts a trace where there is none. Pure."""

import re
from dataclasses import dataclass, replace

TRACEPARENT = re.compile(
    rb"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<parent>(?!0{16})[0-9a-f]{16})"
    rb"-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?\Z"
)
MAX_STATE_BYTES = 4096
SAMPLED = 0x01
SPAN_BYTES = 8
TRACE_BYTES = 16


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A request's place in its trace. Ids in lower-case hexadecimal."""

    trace_id: str
    span_id: str
    """The request's own span, of which everything done for it is a child."""
    parent_id: str | None
    """The caller's span; None where the trace begins here."""
    flags: str
    state: bytes | None = None
    """`tracestate` as it came."""

    @classmethod
    def of(cls, traceparent: bytes | None, tracestate: bytes | None, ids: bytes) -> "TraceContext":
        """The context of a request with those headers. `ids`: random bytes, 8 for the span and 16 for a trace.

        A malformed traceparent counts as none, and takes its tracestate with it.
        """
        span = ids[:SPAN_BYTES].hex()
        match = TRACEPARENT.match(traceparent) if traceparent is not None else None
        if match is None or (match["rest"] is not None and match["version"] == b"00"):
            return cls(ids[SPAN_BYTES : SPAN_BYTES + TRACE_BYTES].hex(), span, None, "00")
        state = tracestate if tracestate is not None and len(tracestate) <= MAX_STATE_BYTES else None
        return cls(match["trace"].decode(), span, match["parent"].decode(), match["flags"].decode(), state)

    def sampled(self) -> "TraceContext":
        """The same, saying that this request is traced."""
        return replace(self, flags=f"{int(self.flags, 16) | SAMPLED:02x}")

    @property
    def traceparent(self) -> bytes:
        """The header that names this request's span as the parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode()
