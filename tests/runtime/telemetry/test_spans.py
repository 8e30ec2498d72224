"""Spans of one request, made of its timeline."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from podium.http.transport.trace import TraceContext
from podium.telemetry.spans import OtlpSpans
from podium.telemetry.timeline import Stage, Timeline
from podium.telemetry.traced import Answered


def test_a_request_does_not_end_before_its_stages_although_its_clock_is_coarser() -> None:
    exporter = InMemorySpanExporter()
    spans = OtlpSpans(SimpleSpanProcessor(exporter), TracerProvider(shutdown_on_exit=False))
    timeline = Timeline([Stage("queue", 10.0001, 10.0002), Stage("infer", 10.0002, 10.0009)])
    place = TraceContext.of(None, None, bytes(range(24)))
    spans.record(place, Answered("POST /", 10.0, 10.0, 200, {}), timeline)
    by_name = {span.name: span for span in exporter.get_finished_spans()}
    root = by_name.pop("POST /")
    assert by_name.keys() == {"queue", "infer"}
    for span in by_name.values():
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time
    spans.close()
