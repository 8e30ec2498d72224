"""Spans of traced requests, by OTLP over HTTP. The only module that imports OpenTelemetry.

Spans are made once a request has ended, from its timeline, so that the hot path pays for none. The exporter batches,
in a thread of its own with a bounded queue: what a slow collector does not take is dropped there, never waited for.
"""

import time
from os import urandom
from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from podium.telemetry.timeline import Stage, Timeline
from podium.telemetry.traced import Answered, Place

SAMPLED = 0x01
SERVER_ERROR = 500
FLUSH_MS = 5_000


class OtlpSpans:
    """Which requests are traced, and where their spans go. `close` it when the process ends."""

    def __init__(self, processor: SpanProcessor, provider: TracerProvider) -> None:
        """`provider`: for its sampler and its resource, as OTEL_TRACES_SAMPLER and OTEL_SERVICE_NAME have them."""
        self._processor = processor
        self._sampler = provider.sampler
        self._resource = provider.resource
        self._epoch_s = time.time() - time.monotonic()

    @classmethod
    def by_otlp(cls) -> Self:
        """To the collector that OpenTelemetry's variables name."""
        return cls(BatchSpanProcessor(OTLPSpanExporter()), TracerProvider(shutdown_on_exit=False))

    def samples(self, place: Place) -> bool:
        """Whether this request is traced: its caller says, or where the trace begins here, the sampler."""
        if place.parent_id is not None:
            return bool(int(place.flags, 16) & SAMPLED)
        decision = self._sampler.should_sample(None, int(place.trace_id, 16), "request").decision
        return decision is not Decision.DROP

    def record(self, place: Place, answered: Answered, timeline: Timeline) -> None:
        """Hands the spans of one request over: its own, and below it one for each stage."""
        trace = int(place.trace_id, 16)
        root = _context(trace, int(place.span_id, 16))
        for stage in timeline.stages:
            child = _context(trace, int.from_bytes(urandom(8)) or 1)
            facts = {f"podium.{name}": value for name, value in stage.facts}
            if stage.subject:
                facts["podium.subject"] = stage.subject
            self._processor.on_end(
                ReadableSpan(
                    _named(stage),
                    context=child,
                    parent=root,
                    resource=self._resource,
                    attributes=facts,
                    start_time=self._wall_ns(stage.start),
                    end_time=self._wall_ns(stage.end),
                )
            )
        # The event loop's clock, by which requests begin and end, is coarser than that of the stages.
        ended = max([answered.ended, *(stage.end for stage in timeline.stages)])
        failed = answered.status >= SERVER_ERROR
        self._processor.on_end(
            ReadableSpan(
                answered.name,
                context=root,
                parent=_context(trace, int(place.parent_id, 16)) if place.parent_id else None,
                resource=self._resource,
                attributes={**answered.attributes, "http.response.status_code": answered.status},
                kind=SpanKind.SERVER,
                start_time=self._wall_ns(answered.started),
                end_time=self._wall_ns(ended),
                status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            )
        )

    def close(self) -> None:
        """Sends what is left, for up to five seconds. Blocking."""
        self._processor.force_flush(FLUSH_MS)
        self._processor.shutdown()

    def _wall_ns(self, monotonic_s: float) -> int:
        return int((self._epoch_s + monotonic_s) * 1e9)


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(SAMPLED))


def _named(stage: Stage) -> str:
    return f"{stage.name} {stage.subject}" if stage.subject else stage.name
