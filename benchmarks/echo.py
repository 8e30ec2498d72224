"""P1: y = 2x of 128 floats as JSON, through a worker process, against other servers on the same processors."""

import json
from collections.abc import Iterable, Sequence

from benchmarks import load, models
from benchmarks.load import Load
from benchmarks.peers import contenders, wire
from benchmarks.peers.server import Contender, Running
from benchmarks.result import Bar, Effort, Result
from benchmarks.rounds import Measured, alternate

SERVER, CLIENT, BOTH = {0}, {1}, {0, 1}
CONNECTIONS = (1, 10, 50, 100)
PODIUM, WITHOUT_METRICS, RAW, FLOOR = "Podium", "Podium, counters off", "raw uvicorn + orjson", "fixed bytes, uvloop"
GROWTH = (1, 4, 16)
SECONDS = 1.0
"""Of load for each point: all of it, pinned, unpinned and grown, takes about ten minutes on two cores."""
FAR_ROUNDS = 2
"""Of peers none of whose figures is near a bar."""
FEWER_ROUNDS = 3
"""Unpinned and grown, where ratios of one contender to itself count, or orientation does."""
FAR = ("mosec, json", "LitServe", "Forge", "FastAPI")


def run(effort: Effort) -> Result:
    """Pinned rounds of everybody, unpinned rounds of those near a bar, then the growth of our own cost."""
    everyone = _contenders()
    far = {one.name: FAR_ROUNDS for one in everyone if one.name.startswith(FAR)}
    pinned = alternate(everyone, lambda server: _levels(server, CLIENT), effort.rounds, SERVER, far)
    rows = [measured.row("server on one, wrk on another") for measured in pinned.values()]
    fewer = min(FEWER_ROUNDS, effort.rounds)
    if not effort.quick:
        near = [one for one in everyone if one.name not in far]
        unpinned = alternate(near, lambda server: _levels(server, BOTH), fewer, BOTH)
        rows += [measured.row("both, shared") for measured in unpinned.values()]
    growth = alternate(_growing(), _grown, fewer, SERVER)
    rows += [measured.row("server on one, wrk on another") for measured in growth.values()]
    return Result("echo", tuple(rows), (*_bars(pinned), *_growth_bars(growth)), _notes(pinned))


def _contenders() -> list[Contender]:
    width, metered = models.ECHO_WIDTH, models.echoes(1)
    body = wire.oip("echo").encode(load.rows(width)[0], "r00")
    return [
        contenders.podium(PODIUM, metered),
        contenders.triton(0),
        contenders.triton(1000),
        contenders.own(RAW, "raw_uvicorn.py", wire.oip("echo")),
        contenders.podium(WITHOUT_METRICS, metered, program="podium_without_metrics.py"),
        contenders.mosec(0),
        contenders.mosec(2),
        contenders.mosec(2, "orjson"),
        contenders.litserve(0.0),
        contenders.litserve(0.001),
        contenders.forge(2),
        contenders.own("FastAPI + pydantic, in process", "fastapi_echo.py", wire.plain("/predict")),
        contenders.own(FLOOR, "canned.py", _canned(), _canned_answer(), str(len(body))),
    ]


def _canned_answer() -> str:
    return json.dumps({"data": [2 * number for number in load.rows(models.ECHO_WIDTH)[0]]})


def _canned() -> wire.Wire:
    """The same request every time: the floor answers only that."""
    known = wire.oip("echo")
    first = load.rows(models.ECHO_WIDTH)[0]
    return wire.Wire(known.path, lambda _, __: known.encode(first, "r00"), lambda raw: list(json.loads(raw)["data"]))


def _levels(server: Running, cpus: set[int]) -> Iterable[tuple[str, Load]]:
    numbers = load.rows(models.ECHO_WIDTH)
    pairs = load.bodies(server, numbers[:1] * load.VARIANTS if server.contender.name == FLOOR else numbers)
    load.wrk(server, pairs, CONNECTIONS[-1], 1.0, cpus)  # warm: code paths, worker's pages, learned sizes
    for connections in CONNECTIONS:
        yield f"c={connections}", load.wrk(server, pairs, connections, SECONDS, cpus)


def _growing() -> list[Contender]:
    return [contenders.podium(f"Podium, {count} models in the pod", models.echoes(count)) for count in GROWTH]


def _grown(server: Running) -> Iterable[tuple[str, Load]]:
    """One model of them is asked: what others in the pod cost it; and, with one model, 1×, 4× and 16× the requests."""
    pairs = load.bodies(server, load.rows(models.ECHO_WIDTH))
    load.wrk(server, pairs, 50, 1.0, CLIENT)
    factors = GROWTH if server.contender.name.startswith("Podium, 1 ") else (1,)
    for factor in factors:
        yield f"{factor}x requests", load.wrk(server, pairs, 50, SECONDS * factor, CLIENT)


def _bars(seen: dict[str, Measured]) -> list[Bar]:
    ours, raw = seen[PODIUM], seen[RAW]
    triton = _family(seen, "Triton")
    bars = [_bar("c=1 p50, over Triton's best", _over(ours.p50_us("c=1"), _least(triton)), 0.9, at_least=False)]
    for connections in CONNECTIONS[1:]:
        point = f"c={connections}"
        bars.append(
            _bar(f"requests/s at {point}, over Triton's best", _over(ours.rps(point), _best(triton, point)), 1.1)
        )
    for name, limit in (("mosec", 3.0), ("LitServe", 5.0), ("Forge", 5.0)):
        worst = [_over(ours.rps(f"c={c}"), _best(_family(seen, name), f"c={c}")) for c in CONNECTIONS]
        known = [ratio for ratio in worst if ratio is not None]
        bars.append(
            _bar(f"requests/s over {name}'s best, least of c=1, 10, 50, 100", min(known) if known else None, limit)
        )
    bars += [
        _bar(f"requests/s at {point}, over raw uvicorn + orjson", _over(ours.rps(point), raw.rps(point)), 0.85)
        for point in ("c=50", "c=100")
    ]
    gain = max(_over(seen[WITHOUT_METRICS].rps(f"c={c}"), ours.rps(f"c={c}")) or 0.0 for c in CONNECTIONS[1:])
    bars.append(_bar("requests/s with the counters off, over on, most of c=10, 50, 100", gain, 1.05, at_least=False))
    return bars


def _growth_bars(seen: dict[str, Measured]) -> list[Bar]:
    one = seen[f"Podium, {GROWTH[0]} models in the pod"]
    many = seen[f"Podium, {GROWTH[-1]} models in the pod"]
    base = one.rps("1x requests")
    return [
        _bar(
            "cost of a request with 16 × the requests, over 1 ×",
            _over(base, one.rps("16x requests")),
            1.2,
            at_least=False,
        ),
        _bar("cost of a request with 16 models, over 1", _over(base, many.rps("1x requests")), 1.2, at_least=False),
    ]


def _bar(text: str, value: float | None, limit: float, *, at_least: bool = True) -> Bar:
    return Bar("P1", text, value, limit, "at least" if at_least else "at most")


def _family(seen: dict[str, Measured], name: str) -> list[Measured]:
    return [measured for key, measured in seen.items() if key.startswith(name) and measured.missing is None]


def _best(family: Sequence[Measured], point: str) -> float:
    return max((measured.rps(point) for measured in family), default=0.0)


def _least(family: Sequence[Measured]) -> float:
    return min((measured.p50_us("c=1") for measured in family), default=0.0)


def _over(value: float, base: float) -> float | None:
    return value / base if base and value not in (0.0, float("inf")) else None


def _notes(seen: dict[str, Measured]) -> tuple[str, ...]:
    ours, floor, raw = seen[PODIUM], seen[FLOOR], seen[RAW]
    notes = [
        "Triton: the tritonserver of nvidia-pytriton run natively on a model repository, no PyTriton proxy",
        "each row says how many rounds it is of: fewer for peers far from every bar, for unpinned ones and for growth",
    ]
    for point in ("c=1", "c=50"):
        away = _over(floor.rps(point), ours.rps(point))
        http = _over(raw.rps(point), ours.rps(point))
        notes.append(
            f"physical limit at {point}: sockets alone, fixed bytes, {floor.rps(point):.0f}/s; we are {away or 0:.2f} "
            f"times away from it, and {http or 0:.2f} × from the same HTTP and JSON without a worker"
        )
    return tuple(notes)
