"""vLLM's statistics of each step, folded into plain numbers. vLLM calls its loggers on the worker's event loop."""

from typing import Any

from podium.ipc.llm_stats import FIRST_TOKEN_BOUNDS_S, INTER_TOKEN_BOUNDS_S, Durations, LlmStats
from podium.telemetry.histogram import Histogram


class Measures:
    """A stat logger of vLLM, for one engine; the object that vLLM wants to make itself is this one (see `factory`)."""

    def __init__(self) -> None:
        self._running = self._waiting = 0
        self._kv_usage = 0.0
        self._prompt = self._generated = self._preempted = 0
        self._queries = self._hits = 0
        self._first = Histogram(FIRST_TOKEN_BOUNDS_S)
        self._inter = Histogram(INTER_TOKEN_BOUNDS_S)

    def factory(self, _config: Any, _engine_index: int = 0) -> "Measures":
        """What vLLM calls to make its logger."""
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_others: Any) -> None:
        """Takes in one step. Either part may be None."""
        if scheduler_stats is not None:
            self._running = scheduler_stats.num_running_reqs
            self._waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self._kv_usage = min(1.0, max(0.0, scheduler_stats.kv_cache_usage))
            self._queries += scheduler_stats.prefix_cache_stats.queries
            self._hits += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            self._prompt += iteration_stats.num_prompt_tokens
            self._generated += iteration_stats.num_generation_tokens
            self._preempted += iteration_stats.num_preempted_reqs
            _add(self._first, iteration_stats.time_to_first_tokens_iter)
            _add(self._inter, iteration_stats.inter_token_latencies_iter)

    def log_engine_initialized(self) -> None:
        """Nothing: Podium logs that the worker is ready."""

    def log(self) -> None:
        """Nothing: the numbers are read, not printed."""

    def record_sleep_state(self, *_state: int, **_named: int) -> None:
        """Nothing: Podium never sends an engine to sleep."""

    def read(self) -> LlmStats:
        """The numbers as of now."""
        return LlmStats(
            running=self._running,
            waiting=self._waiting,
            kv_usage=self._kv_usage,
            prompt_tokens=self._prompt,
            generated_tokens=self._generated,
            preemptions=self._preempted,
            prefix_queries=self._queries,
            prefix_hits=self._hits,
            first_token=_read(self._first),
            inter_token=_read(self._inter),
        )


def _add(histogram: Histogram, seconds: list[float]) -> None:
    for value in seconds:
        histogram.add(max(0.0, value))  # taken from two clocks, which may disagree by a little


def _read(histogram: Histogram) -> Durations:
    return Durations(tuple(histogram.counts), histogram.total)
