"""Prometheus metrics, read off plain counters at each scrape: no label survives the revision it names by more than two
scrapes, and a name that a client made up never becomes one."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from podium.http.metrics.batches import batch_series
from podium.http.metrics.bodies import add_body_copies, body_bytes
from podium.http.metrics.families import MEMBER_LABELS, REVISION_LABELS, add_histogram
from podium.http.metrics.llm import llm_series
from podium.http.metrics.shadow import shadow_series
from podium.http.metrics.streams import stream_series
from podium.http.transport.lending import Lending
from podium.ipc.arena import Arena
from podium.ipc.llm_stats import LlmStats
from podium.serving.dispatch.tally import Tally
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.residents import Residents
from podium.telemetry.garbage import GarbageControl
from podium.telemetry.loop_lag import LoopLag

SCRAPES_AFTER_UNLOAD = 2
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class PodCollector(Collector):
    """The series of a residents."""

    def __init__(
        self, residents: Residents, arena: Arena, lending: Lending, garbage: GarbageControl, lag: LoopLag
    ) -> None:
        self._residents = residents
        self._lag = lag
        self._garbage = garbage
        self._arena = arena
        self._lending = lending
        self._left: dict[LiveRevision, int] = {}
        """Loaded revision → scrapes that will still show it once it is unloaded."""

    def collect(self) -> Iterator[Metric]:
        """All series, as of now."""
        yield GaugeMetricFamily("podium_ready", "1 where the pod wants traffic", float(self._residents.is_ready()))
        in_flight = float(self._residents.drain.in_flight)
        yield GaugeMetricFamily("podium_requests_in_flight", "Requests being answered", in_flight)
        yield self._arena_bytes()
        promised = float(self._arena.promised_bytes)
        yield GaugeMetricFamily("podium_arena_promised_bytes", "Arena that admitted requests will take", promised)
        lent = float(self._lending.held_bytes)
        yield GaugeMetricFamily("podium_arena_lent_bytes", "Arena that answers on their way are sent from", lent)
        loaded = self._residents.loaded()
        shown = self._shown(loaded)
        yield from _requests(shown)
        yield from stream_series(shown)
        yield body_bytes(shown)
        yield shadow_series(shown)
        yield self._in_flight(loaded)
        yield self._model_loaded()
        yield from self._workers(shown)
        yield self._gc_pauses()
        yield self._loop_lag()
        yield from _steps(shown)

    def _shown(self, loaded: list[LiveRevision]) -> list[LiveRevision]:
        for revision in loaded:
            self._left[revision] = SCRAPES_AFTER_UNLOAD
        shown = list(self._left)
        for revision in shown:
            if revision not in loaded:
                self._left[revision] -= 1
                if self._left[revision] <= 0:
                    del self._left[revision]
        return shown

    def _arena_bytes(self) -> Metric:
        family = GaugeMetricFamily("podium_arena_bytes", "Shared memory by slot class", labels=["class", "state"])
        for row in self._arena.stats().classes:
            name = str(row.slot_bytes) if row.slot_bytes else "run"
            family.add_metric([name, "used"], row.used_bytes)
            family.add_metric([name, "free"], row.free_bytes)
            family.add_metric([name, "high_water"], row.high_water_bytes)
        return family

    def _gc_pauses(self) -> Metric:
        family = HistogramMetricFamily("podium_gc_pause_seconds", "Stops of the event loop", labels=["generation"])
        for generation, pauses in self._garbage.pauses.items():
            add_histogram(family, [str(generation)], pauses)
        return family

    def _in_flight(self, loaded: list[LiveRevision]) -> Metric:
        family = GaugeMetricFamily("podium_in_flight", "Requests being answered by a revision", labels=REVISION_LABELS)
        for revision in loaded:
            family.add_metric([revision.resource.name, revision.name], revision.in_flight)
        return family

    def _model_loaded(self) -> Metric:
        family = GaugeMetricFamily(
            "podium_model_loaded", "1 where a revision is loaded and can answer", labels=[*REVISION_LABELS, "state"]
        )
        for resident in self._residents:
            for hosted in resident.hosted:
                labels = [resident.resource.name, hosted.name, hosted.state.value]
                family.add_metric(labels, float(hosted.live is not None))
        return family

    def _workers(self, shown: list[LiveRevision]) -> Iterator[Metric]:
        restarts = CounterMetricFamily("podium_worker_restarts", "Workers started anew", labels=MEMBER_LABELS)
        depth = GaugeMetricFamily("podium_queue_depth", "Requests waiting for a worker", labels=MEMBER_LABELS)
        looping = GaugeMetricFamily("podium_workers_crash_looping", "Workers that keep dying", labels=MEMBER_LABELS)
        states = GaugeMetricFamily("podium_workers", "Worker processes by state", labels=[*MEMBER_LABELS, "state"])
        held = GaugeMetricFamily("podium_arena_held_bytes", "Arena that a model keeps views of", labels=MEMBER_LABELS)
        sizes = HistogramMetricFamily("podium_batch_size", "Rows of each batch", labels=MEMBER_LABELS)
        copies, copied = _copy_families()
        add_body_copies(shown, copies, copied)
        tallies: list[tuple[list[str], Tally]] = []
        measured: list[tuple[list[str], LlmStats]] = []
        for resident in self._residents:
            for hosted in resident.hosted:
                for member, shared in hosted.held.items():
                    if shared.group is None:
                        continue
                    stats = shared.group.stats()
                    labels = [resident.resource.name, hosted.name, member]
                    restarts.add_metric(labels, stats.restarts)
                    looping.add_metric(labels, stats.crash_looping)
                    for state, count in stats.instances.items():
                        states.add_metric([*labels, state.value], count)
                    depth.add_metric(labels, stats.queue_depth)
                    held.add_metric(labels, stats.held_bytes)
                    sizes.add_metric(labels, *_batch_buckets(stats.batch_sizes))
                    copies.add_metric([*labels, "gather"], stats.copies.gathers)
                    copies.add_metric([*labels, "store"], stats.copies.stores)
                    copied.add_metric([*labels, "gather"], stats.copies.gathered_bytes)
                    copied.add_metric([*labels, "store"], stats.copies.stored_bytes)
                    tallies.append((labels, stats.tally))
                    if stats.llm is not None:
                        measured.append((labels, stats.llm))
        yield from (restarts, looping, states, depth, held, sizes, copies, copied)
        yield from batch_series(tallies)
        yield from llm_series(measured)

    def _loop_lag(self) -> Metric:
        family = HistogramMetricFamily("podium_event_loop_lag_seconds", "How late the event loop wakes", labels=[])
        add_histogram(family, [], self._lag.seconds)
        return family


def _steps(revisions: list[LiveRevision]) -> Iterator[Metric]:
    labels = [*REVISION_LABELS, "step"]
    seconds = HistogramMetricFamily(
        "podium_step_duration_seconds", "Each step of a pipeline, all its attempts", labels=labels
    )
    failures = CounterMetricFamily("podium_step_failures", "Requests that failed at this step", labels=labels)
    for revision in revisions:
        named = [revision.resource.name, revision.name]
        for step, histogram in revision.step_seconds.items():
            add_histogram(seconds, [*named, step], histogram)
        for step, count in revision.step_failures.items():
            failures.add_metric([*named, step], count)
    yield from (seconds, failures)


def _copy_families() -> tuple[CounterMetricFamily, CounterMetricFamily]:
    labels = [*MEMBER_LABELS, "step"]
    return (
        CounterMetricFamily("podium_tensor_copies", "Tensors copied on their way through the pod", labels=labels),
        CounterMetricFamily("podium_tensor_copied_bytes", "Bytes of those copies", labels=labels),
    )


def _requests(revisions: list[LiveRevision]) -> Iterator[Metric]:
    total = CounterMetricFamily("podium_requests", "Requests answered", labels=[*REVISION_LABELS, "route", "code"])
    seconds = HistogramMetricFamily(
        "podium_request_duration_seconds", "From the request's head to its answer", labels=[*REVISION_LABELS, "route"]
    )
    for revision in revisions:
        base = [revision.resource.name, revision.name]
        for (route, status), count in revision.counts.answers.items():
            total.add_metric([*base, route, str(status)], count)
        for route, histogram in revision.counts.seconds.items():
            exemplars = [revision.counts.exemplars.get((route, index)) for index in range(len(histogram.counts))]
            add_histogram(seconds, [*base, route], histogram, exemplars)
    yield from (total, seconds)


def _batch_buckets(sizes: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets and the sum of rows, from batches by their size."""
    pairs: list[tuple[str, float]] = [
        (str(bound), float(sum(n for size, n in sizes.items() if size <= bound))) for bound in BATCH_BOUNDS
    ]
    pairs.append(("+Inf", float(sum(sizes.values()))))
    return pairs, float(sum(size * n for size, n in sizes.items()))


def registry(
    residents: Residents, arena: Arena, lending: Lending, garbage: GarbageControl, lag: LoopLag
) -> CollectorRegistry:
    """The registry of one process: nothing global, so that two pods can live in one test."""
    made = CollectorRegistry()
    made.register(PodCollector(residents, arena, lending, garbage, lag))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made
