"""Labels, and how plain counts become series."""

from collections.abc import Sequence

from prometheus_client.core import Exemplar as PrometheusExemplar
from prometheus_client.core import HistogramMetricFamily, Timestamp

from podium.telemetry.counting import Exemplar
from podium.telemetry.histogram import Histogram

REVISION_LABELS = ["model", "revision"]
MEMBER_LABELS = [*REVISION_LABELS, "member"]

Bucket = tuple[str, float] | tuple[str, float, PrometheusExemplar]


def add_histogram(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    histogram: Histogram,
    exemplars: Sequence[Exemplar | None] = (),
) -> None:
    """One series of a family. `exemplars`: per bucket a request that stands for it, where there is one."""
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    found = exemplars or [None] * len(bounds)
    pairs = zip(bounds, histogram.cumulative(), found, strict=True)
    family.add_metric(labels, buckets=[_bucket(*pair) for pair in pairs], sum_value=histogram.total)


def _bucket(bound: str, count: int, found: Exemplar | None) -> Bucket:
    """OpenMetrics shows the trace of an exemplar; the plain text format leaves it out."""
    if found is None:
        return bound, float(count)
    return bound, float(count), PrometheusExemplar({"trace_id": found.trace_id}, found.seconds, Timestamp(found.at, 0))
