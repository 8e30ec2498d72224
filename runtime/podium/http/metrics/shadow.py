"""Copies of requests for a candidate, by what came of them, read off plain counters at each scrape."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric

from podium.http.metrics.families import REVISION_LABELS
from podium.serving.revisions.live import LiveRevision

LABELS = [*REVISION_LABELS, "outcome"]


def shadow_series(revisions: Iterable[LiveRevision]) -> Metric:
    """Of every revision that has seen copies."""
    family = CounterMetricFamily(
        "podium_shadow_requests", "Copies of requests that a candidate saw, by how its answer compared", labels=LABELS
    )
    for revision in revisions:
        for outcome, count in revision.shadow.totals.items():
            family.add_metric([revision.resource.name, revision.name, outcome.value], count)
    return family
