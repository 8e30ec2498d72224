"""Series of answers in chunks, read off plain counters at each scrape."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from podium.serving.live import LiveRevision
from podium.telemetry.counting import accumulated
from podium_crds.assignment import LATENCY_BOUNDS_S

LABELS = ["model", "revision"]
BOUNDS = [*(str(bound) for bound in LATENCY_BOUNDS_S), "+Inf"]


def stream_series(revisions: Iterable[LiveRevision]) -> Iterator[Metric]:
    """Of every revision that streams, or has."""
    active = GaugeMetricFamily("podium_streams_active", "Streams being answered", labels=LABELS)
    ended = CounterMetricFamily("podium_streams_ended", "Streams that ended, however", labels=LABELS)
    failed = CounterMetricFamily("podium_streams_failed", "Streams that an error ended", labels=LABELS)
    cancelled = CounterMetricFamily("podium_streams_cancelled", "Streams that their client left", labels=LABELS)
    chunks = CounterMetricFamily("podium_stream_chunks", "Chunks given to clients", labels=LABELS)
    first = HistogramMetricFamily(
        "podium_stream_first_chunk_seconds", "From admission to the first chunk", labels=LABELS
    )
    for revision in revisions:
        counts = revision.stream_counts
        if not (revision.streams or counts.ended):
            continue
        labels = [revision.resource.name, revision.name]
        active.add_metric(labels, counts.active)
        ended.add_metric(labels, counts.ended)
        failed.add_metric(labels, counts.failed)
        cancelled.add_metric(labels, counts.cancelled)
        chunks.add_metric(labels, counts.chunks)
        pairs = list(zip(BOUNDS, accumulated(counts.first_buckets), strict=True))
        first.add_metric(labels, buckets=pairs, sum_value=counts.first_seconds)
    yield from (active, ended, failed, cancelled, chunks, first)
