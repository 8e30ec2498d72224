"""P5: chains of steps in one pod, by size, by what a step does with its tensor and by length; and the same over HTTP.

One client, one request at a time, then forty; every answer is compared byte for byte. Over HTTP the client calls one
server after the other, as an orchestrator would; Ray Serve chains its deployments itself. What a hop costs is what a
chain takes longer than one step, without the time in the models. The physical limit of a chain is one body in and one
out; that of three HTTP hops is three times as much, so a pod can come to a third of three servers like itself.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import median

import numpy as np

from benchmarks import chains, load
from benchmarks.chains import LENGTH, OIP, Asker, Way
from benchmarks.result import Bar, Effort, Result

SIZES = {"1 KB": 1 << 10, "32 KB": 32 << 10, "1 MB": 1 << 20, "10 MB": 10 << 20}
"""The first travels in messages, the second in slots."""
LONG = 12
CHAINS = {f"{kind}-{steps}": (kind, steps) for kind in chains.KINDS for steps in (1, LONG)} | {
    f"passed-{steps}": ("passed", steps) for steps in (3, 48)
}
MAX_JSON = 1 << 20
"""A larger tensor in JSON takes seconds at each of three servers."""
SECONDS = 0.4
"""Of each way, size and round, as a part of the effort's seconds."""
MIN_TRIPS = 4
TOGETHER = 40
CROWDED = ("1 KB", "1 MB")

Key = tuple[str, str]
"""(size, way)."""


def run(effort: Effort) -> Result:
    """Medians of rounds."""
    trips: defaultdict[Key, list[float]] = defaultdict(list)
    models: defaultdict[Key, list[float]] = defaultdict(list)
    crowds: defaultdict[str, list[load.Load]] = defaultdict(list)
    copies: list[float] = []
    with chains.pod(CHAINS) as (url, own), chains.services() as (others, missing):
        for _ in range(effort.rounds):
            copies.append(_memcpy_ms(SIZES["10 MB"]))
            for size, way in _points([*own, *others]):
                try:
                    took_ms, model_ms = _round(way, url, SIZES[size], SECONDS * effort.seconds)
                except RuntimeError as error:
                    if way.pipeline:
                        raise
                    if way in others:  # a peer that breaks has no more figures; the others still have theirs
                        others.remove(way)
                        missing.append(str(error))
                    continue
                trips[size, way.name].append(took_ms)
                models[size, way.name].append(model_ms)
            for size in CROWDED:
                crowds[size].append(_crowd(own, SIZES[size], effort.seconds))
    p50 = {key: median(values) for key, values in trips.items()}
    worked = {key: median(values) for key, values in models.items()}
    rows = [
        {"size": size, "way": way, "p50_ms": round(value, 3), "in_models_ms": round(worked[size, way], 3)}
        for (size, way), value in p50.items()
    ]
    rows += [_crowd_row(size, loads) for size, loads in crowds.items()]
    rows.append({"case": "memcpy of 10 MB", "ms": round(median(copies), 3)})
    bars = [*_hop_bars(p50, worked, median(copies)), *_peer_bars(p50), *_growth_bars(p50), *_crowd_bars(crowds)]
    return Result("pipelines", tuple(rows), tuple(bars), (*missing, LIMIT))


LIMIT = (
    "a chain moves its tensor through two sockets, three HTTP hops through six: against three servers as quick as the "
    "pod, one third is the least that can be"
)


def _points(ways: list[Way]) -> Iterator[tuple[str, Way]]:
    for size, nbytes in SIZES.items():
        for way in ways:
            if way.protocol is not chains.JSON or nbytes <= MAX_JSON:
                yield size, way


def _round(way: Way, url: str, nbytes: int, seconds: float) -> tuple[float, float]:
    """Median milliseconds of a trip, and the mean that its models took of it."""
    tensor = np.random.default_rng(nbytes).random((1, nbytes // 4), np.float32).tobytes()
    asker = Asker(way)
    try:
        asker.trip_s(tensor)
        before = chains.model_seconds(url, way.pipeline) if way.pipeline else 0.0
        took: list[float] = []
        until = time.perf_counter() + seconds
        while len(took) < MIN_TRIPS or time.perf_counter() < until:
            took.append(asker.trip_s(tensor))
        after = chains.model_seconds(url, way.pipeline) if way.pipeline else 0.0
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{way.name} with {nbytes} bytes: {error}") from error
    finally:
        asker.close()
    return median(took) * 1e3, (after - before) / len(took) * 1e3


def _crowd(own: list[Way], nbytes: int, seconds: float) -> load.Load:
    """Forty clients of the chain of three."""
    way = next(way for way in own if way.name == "passed-3")
    pairs, asker = [], Asker(way)
    try:
        for seed in range(4):
            tensor = np.random.default_rng(seed).random((1, nbytes // 4), np.float32).tobytes()
            asker.trip_s(tensor)  # compares
            pairs.append((b"".join(OIP.first(tensor)), bytes(asker.ask(tensor))))
    finally:
        asker.close()
    return load.wrk_binary(way.urls[0], {LENGTH: str(OIP.header_bytes(nbytes))}, pairs, TOGETHER, seconds, {0, 1})


def _crowd_row(size: str, loads: list[load.Load]) -> dict[str, object]:
    found = {name: round(median(getattr(each, name) for each in loads)) for name in ("rps", "p50_us", "p99_us")}
    return {"size": size, "way": "passed-3", "clients": TOGETHER, **found}


def _memcpy_ms(nbytes: int) -> float:
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    took = []
    for _ in range(9):
        begun = time.perf_counter()
        np.copyto(target, source)
        took.append(time.perf_counter() - begun)
    return median(took) * 1e3


def _hop_bars(p50: Mapping[Key, float], worked: Mapping[Key, float], memcpy_ms: float) -> Iterator[Bar]:
    def hop(kind: str, size: str) -> float:
        long, one = (size, f"{kind}-{LONG}"), (size, f"{kind}-1")
        return ((p50[long] - worked[long]) - (p50[one] - worked[one])) / (LONG - 1)

    for kind, words in (("passed", "passed through"), ("placed", "written by ctx.output")):
        for small in ("1 KB", "32 KB"):
            ratio = hop(kind, "10 MB") / hop(kind, small)
            yield Bar(f"P5-hop-{kind}-{small}", f"a hop of 10 MB {words}, over one of {small}", ratio, 2.0)
    added = (hop("fresh", "10 MB") - hop("fresh", "1 KB")) / memcpy_ms
    yield Bar("P5-hop-fresh", "what a fresh tensor of 10 MB adds to a hop, in memcpy of it", added, 1.2)


def _peer_bars(p50: Mapping[Key, float]) -> Iterator[Bar]:
    for size, limit in (("1 MB", 1 / 5), ("10 MB", 1 / 10)):
        own = p50[size, "passed-3"]
        for (other, way), value in p50.items():
            if other == size and "-" not in way:
                yield Bar(f"P5-{size}", f"end to end at {size}, over {way}", own / value, limit)


def _growth_bars(p50: Mapping[Key, float]) -> Iterator[Bar]:
    def step(steps: int) -> float:
        return (p50["1 KB", f"passed-{steps}"] - p50["1 KB", "passed-1"]) / (steps - 1)

    for steps in (LONG, 48):
        yield Bar(f"P5-growth-{steps}", f"a step of {steps} over a step of 3, 1 KB", step(steps) / step(3), 1.2)


def _crowd_bars(crowds: Mapping[str, list[load.Load]]) -> Iterator[Bar]:
    for size, loads in crowds.items():
        ratio = median(each.p99_us / each.p50_us for each in loads)
        yield Bar(f"P5-tail-{size}", f"p99 over p50 of {TOGETHER} clients, {size}", ratio, 3.0)
