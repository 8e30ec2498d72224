"""Series of the raw tensors in the bodies of requests and answers."""

from prometheus_client.core import CounterMetricFamily, Metric

from podium.http.metrics.families import REVISION_LABELS
from podium.serving.revisions.live import LiveRevision


def add_body_copies(revisions: list[LiveRevision], copies: CounterMetricFamily, copied: CounterMetricFamily) -> None:
    """The steps before the first member and after the last, which belong to no member."""
    for revision in revisions:
        labels, counts = [revision.resource.name, revision.name, ""], revision.body_counts
        copies.add_metric([*labels, "http_in"], counts.in_copies)
        copies.add_metric([*labels, "http_out"], counts.out_copies)
        copied.add_metric([*labels, "http_in"], counts.in_copied_bytes)
        copied.add_metric([*labels, "http_out"], counts.out_copied_bytes)


def body_bytes(revisions: list[LiveRevision]) -> Metric:
    """Raw tensors, whether copied or not."""
    family = CounterMetricFamily(
        "podium_tensor_body_bytes",
        "Raw tensors in the bodies of requests and answers",
        labels=[*REVISION_LABELS, "direction"],
    )
    for revision in revisions:
        family.add_metric([revision.resource.name, revision.name, "in"], revision.body_counts.in_bytes)
        family.add_metric([revision.resource.name, revision.name, "out"], revision.body_counts.out_bytes)
    return family
