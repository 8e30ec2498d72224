"""Whether requests are traced: where OpenTelemetry's own variables name a collector.

OpenTelemetry is imported only then (podium.telemetry.spans): it is not installed everywhere and takes its time.
"""

from collections.abc import Mapping

from podium.telemetry.logging import get_logger
from podium.telemetry.traced import Spans

log = get_logger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


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
