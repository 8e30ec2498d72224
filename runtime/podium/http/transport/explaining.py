"""What one request tells of itself: spans where it is traced, and `Server-Timing` where its client asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from podium.http.transport.trace import TraceContext
from podium.telemetry.timeline import CURRENT, Stage, Timeline
from podium.telemetry.traced import Answered, Spans

EXPLAIN = b"podium-explain"
"""Request header: any value asks for the stages of the request in the answer's Server-Timing."""
SERVER_TIMING = b"server-timing"
MAX_ENTRIES = 64


@dataclass(slots=True)
class Account:
    """The stages of one request, and who gets them."""

    timeline: Timeline
    is_traced: bool
    is_explained: bool

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within it whatever works for the request notes its stages."""
        token = CURRENT.set(self.timeline)
        try:
            yield
        finally:
            CURRENT.reset(token)

    def header(self, started: float) -> tuple[bytes, bytes] | None:
        """Server-Timing (W3C): durations and starts in milliseconds, starts counted from the request's head."""
        if not self.is_explained:
            return None
        entries = (_entry(stage, started) for stage in self.timeline.stages[:MAX_ENTRIES])
        return SERVER_TIMING, ", ".join(entries).encode("ascii", "replace")


def account_of(trace: TraceContext, spans: Spans | None, explain: bytes | None) -> Account | None:
    """None for a request that is neither traced nor to be explained."""
    is_traced = spans is not None and spans.samples(trace)
    if not is_traced and explain is None:
        return None
    return Account(Timeline(), is_traced, explain is not None)


def answered(path: str, started: float, ended: float, status: int, request_id: str, revision: str | None) -> Answered:
    """The request as its span tells it."""
    facts = {"url.path": path, "podium.request_id": request_id}
    if revision is not None:
        facts["podium.revision"] = revision
    return Answered(f"POST {path}", started, ended, status, facts)


def _entry(stage: Stage, started: float) -> str:
    parts = [stage.name, f"dur={(stage.end - stage.start) * 1e3:.3f}", f"start={(stage.start - started) * 1e3:.3f}"]
    if stage.subject:
        parts.append(f'desc="{stage.subject}"')
    parts += [f"{name}={value}" for name, value in stage.facts]
    return ";".join(parts)
