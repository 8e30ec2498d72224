"""Series of language models: what their engines measured, by model, revision and member."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from podium.http.metrics.families import MEMBER_LABELS, add_histogram
from podium.ipc.llm_stats import FIRST_TOKEN_BOUNDS_S, INTER_TOKEN_BOUNDS_S, Durations, LlmStats
from podium.telemetry.histogram import Histogram

_COUNTERS = {
    "prompt_tokens": "Tokens of prompts taken in",
    "generated_tokens": "Tokens generated",
    "preemptions": "Requests that lost their KV cache to others and began again",
    "prefix_queries": "Prompt tokens looked up in the prefix cache",
    "prefix_hits": "Prompt tokens found in the prefix cache",
}
_GAUGES = {
    "running": ("requests_running", "Requests in the engine's batch"),
    "waiting": ("requests_waiting", "Requests that the engine has taken and not begun"),
    "kv_usage": (
        "kv_cache_usage_ratio",
        "Share of the KV cache in use, 0 to 1; of several instances the fullest one's",
    ),
}
_HISTOGRAMS = {
    "first_token": ("time_to_first_token_seconds", "From the engine's taking a request to its first token"),
    "inter_token": ("inter_token_seconds", "Between two tokens of one request"),
}
_BOUNDS = {"first_token": FIRST_TOKEN_BOUNDS_S, "inter_token": INTER_TOKEN_BOUNDS_S}


def llm_series(measured: Iterable[tuple[list[str], LlmStats]]) -> Iterator[Metric]:
    """One family each; `measured` has the values of MEMBER_LABELS with the measures."""
    rows = list(measured)
    if not rows:
        return
    for field, text in _COUNTERS.items():
        counter = CounterMetricFamily(f"podium_llm_{field}", text, labels=MEMBER_LABELS)
        for labels, stats in rows:
            counter.add_metric(labels, getattr(stats, field))
        yield counter
    for field, (name, text) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"podium_llm_{name}", text, labels=MEMBER_LABELS)
        for labels, stats in rows:
            gauge.add_metric(labels, getattr(stats, field))
        yield gauge
    for field, (name, text) in _HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"podium_llm_{name}", text, labels=MEMBER_LABELS)
        for labels, stats in rows:
            durations: Durations = getattr(stats, field)
            add_histogram(histogram, labels, Histogram(_BOUNDS[field], list(durations.buckets), durations.sum_s))
        yield histogram
