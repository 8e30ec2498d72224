"""Whether requests are traced, and what is told of them: where OpenTelemetry's own variables name a collector.

OpenTelemetry is imported only then (podium.telemetry.spans): it is not installed everywhere and takes its time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from podium.telemetry.logging import get_logger
from podium.telemetry.timeline import Timeline

log = get_logger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Place(Protocol):
    """A request's place in its trace, ids in hexadecimal."""

    @property
    def trace_id(self) -> str: ...
    @property
    def span_id(self) -> str: ...
    @property
    def parent_id(self) -> str | None: ...
    @property
    def flags(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that was answered. Times: monotonic seconds, as all of its timeline."""

    name: str
    started: float
    ended: float
    status: int
    attributes: Mapping[str, str]


class Spans(Protocol):
    """Which requests are traced, and where their spans go."""

    def samples(self, place: Place) -> bool:
        """Whether this request is traced."""

    def record(self, place: Place, answered: Answered, timeline: Timeline) -> None:
        """Hands the spans of one request over: its own, and below it one for each stage. Never waits."""

    def close(self) -> None:
        """Sends what is left, for a few seconds. Blocking."""


def tracing(environ: Mapping[str, str]) -> Spans | None:
    """What takes the spans; None where no collector is named, or the libraries are missing, which is logged."""
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from podium.telemetry.spans import OtlpSpans
    except ImportError as error:
        log.warning("tracing_unavailable", missing=str(error.name), advice="pip install 'podium[otel]'")
        return None
    return OtlpSpans.by_otlp()
