"""What engines for language models measure survives their deaths, but for what they held."""

from podium.ipc.llm_stats import Durations, LlmStats
from podium.serving.workers.llm_totals import LlmTotals, added_up


def some_stats(generated: int, running: int = 0, kv_usage: float = 0.0) -> LlmStats:
    buckets = [0] * len(LlmStats().inter_token.buckets)
    buckets[2] = generated
    return LlmStats(
        running=running, kv_usage=kv_usage, generated_tokens=generated, inter_token=Durations(tuple(buckets), 0.1)
    )


def test_an_engine_that_never_spoke_has_no_measures() -> None:
    totals = LlmTotals()
    totals.end_life()
    assert totals.read() is None
    assert added_up([totals]) is None


def test_counts_go_on_after_a_death_and_gauges_fall_to_zero() -> None:
    totals = LlmTotals()
    totals.take(some_stats(5))
    totals.take(some_stats(10, running=3, kv_usage=0.5))
    totals.end_life()
    dead = totals.read()
    assert dead is not None
    assert (dead.generated_tokens, dead.running, dead.kv_usage) == (10, 0, 0.0)
    totals.take(some_stats(4, running=1))
    alive = totals.read()
    assert alive is not None
    assert (alive.generated_tokens, alive.running) == (14, 1)
    assert alive.inter_token.buckets[2] == 14
    assert alive.inter_token.sum_s == 0.2


def test_histograms_of_other_bounds_are_not_believed() -> None:
    totals = LlmTotals()
    totals.take(LlmStats(first_token=Durations((1, 2, 3))))
    assert totals.read() is None


def test_instances_add_up_and_the_fullest_cache_counts() -> None:
    first, second = LlmTotals(), LlmTotals()
    first.take(some_stats(5, running=2, kv_usage=0.25))
    second.take(some_stats(7, running=1, kv_usage=0.75))
    both = added_up([first, second, LlmTotals()])
    assert both is not None
    assert (both.generated_tokens, both.running, both.kv_usage) == (12, 3, 0.75)
