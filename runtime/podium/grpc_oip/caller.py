"""Who calls, as the metadata says, and what every answer carries in its trailing metadata."""

from collections.abc import Iterable
from dataclasses import dataclass
from os import urandom

from podium.http.transport.asgi import Fields
from podium.http.transport.limits import REQUEST_ID
from podium.http.transport.trace import SPAN_BYTES, TRACE_BYTES, TraceContext
from podium.serving.revisions.live import LiveRevision
from podium_crds.keys import HEADER_REQUEST_ID, HEADER_REVISION

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(slots=True)
class Caller:
    """One call's place in logs and traces."""

    request_id: str
    trace: TraceContext
    key: str | None = None
    """Name of the API key."""

    def take_id(self, message_id: str) -> None:
        """The message's own id, for a call whose metadata has none. An unusable one counts as none."""
        if self.request_id == self.trace.trace_id and REQUEST_ID.match(message_id.encode()):
            self.request_id = message_id


def fields_of(metadata: Metadata | None) -> Fields:
    """Text metadata as HTTP has headers."""
    return {name.encode(): value.encode() for name, value in metadata or () if isinstance(value, str)}


def caller_of(metadata: Metadata | None) -> Caller:
    """The request's id is that of the metadata, else the trace's. An unusable one counts as none."""
    fields = fields_of(metadata)
    ids = urandom(SPAN_BYTES + TRACE_BYTES)
    trace = TraceContext.of(fields.get(b"traceparent"), fields.get(b"tracestate"), ids)
    given = fields.get(HEADER_REQUEST_ID.encode(), b"")
    return Caller(given.decode() if REQUEST_ID.match(given) else trace.trace_id, trace)


def answer_metadata(caller: Caller, revision: LiveRevision | None) -> tuple[tuple[str, str], ...]:
    """The request's id, its trace and, once it is known, who answers."""
    found = [(HEADER_REQUEST_ID, caller.request_id), ("traceparent", caller.trace.traceparent.decode())]
    if revision is not None:
        found.append((HEADER_REVISION, revision.name))
    if caller.trace.state is not None:
        found.append(("tracestate", caller.trace.state.decode()))
    return tuple(found)
