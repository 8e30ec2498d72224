"""Series of the batching of each member, read off its group's tally."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from podium.http.metrics.families import MEMBER_LABELS, add_histogram
from podium.serving.dispatch.tally import Tally


def batch_series(tallies: Iterable[tuple[Sequence[str], Tally]]) -> Iterator[Metric]:
    """All of them, each tally with its values for MEMBER_LABELS."""
    fill = HistogramMetricFamily(
        "podium_batch_fill_ratio", "Rows of each batch as a part of what it might have had", labels=MEMBER_LABELS
    )
    queue = HistogramMetricFamily("podium_queue_seconds", "From arrival to dispatch", labels=MEMBER_LABELS)
    stages = HistogramMetricFamily(
        "podium_batch_stage_seconds", "Time of each batch by stage", labels=[*MEMBER_LABELS, "stage"]
    )
    closed = CounterMetricFamily("podium_batches_closed", "Batches by what closed them", labels=_with("reason"))
    shed = CounterMetricFamily("podium_requests_shed", "Requests that were never run", labels=_with("reason"))
    cancelled = CounterMetricFamily("podium_requests_cancelled", "Requests whose client left", labels=MEMBER_LABELS)
    padding = CounterMetricFamily("podium_padding_elements", "Elements of padded inputs", labels=_with("kind"))
    for labels, tally in tallies:
        add_histogram(fill, labels, tally.fill)
        add_histogram(queue, labels, tally.queue_s)
        for stage, histogram in (
            ("gather", tally.gather_s),
            ("hand_off", tally.hand_off_s),
            ("infer", tally.infer_s),
            ("output", tally.output_s),
        ):
            add_histogram(stages, [*labels, stage], histogram)
        for reason, count in tally.closed.items():
            closed.add_metric([*labels, reason.value], count)
        for cause, count in tally.shed.items():
            shed.add_metric([*labels, cause.value], count)
        cancelled.add_metric(labels, tally.cancels)
        padding.add_metric([*labels, "real"], tally.real_elements)
        padding.add_metric([*labels, "padding"], tally.padded_elements - tally.real_elements)
    yield from (fill, queue, stages, closed, shed, cancelled, padding)


def _with(label: str) -> list[str]:
    return [*MEMBER_LABELS, label]
