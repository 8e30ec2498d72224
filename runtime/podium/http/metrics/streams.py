"""Series of answers in chunks, read off plain counters at each scrape."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from podium.http.metrics.families import REVISION_LABELS, add_histogram
from podium.serving.revisions.live import LiveRevision


def stream_series(revisions: Iterable[LiveRevision]) -> Iterator[Metric]:
    """Of every revision that streams, or has."""
    active = GaugeMetricFamily("podium_streams_active", "Streams being answered", labels=REVISION_LABELS)
    ended = CounterMetricFamily("podium_streams_ended", "Streams that ended, however", labels=REVISION_LABELS)
    failed = CounterMetricFamily("podium_streams_failed", "Streams that an error ended", labels=REVISION_LABELS)
    cancelled = CounterMetricFamily("podium_streams_cancelled", "Streams whose client left", labels=REVISION_LABELS)
    chunks = CounterMetricFamily("podium_stream_chunks", "Chunks given to clients", labels=REVISION_LABELS)
    first = HistogramMetricFamily(
        "podium_stream_first_chunk_seconds", "From admission to the first chunk", labels=REVISION_LABELS
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
        add_histogram(first, labels, counts.first_s)
    yield from (active, ended, failed, cancelled, chunks, first)
