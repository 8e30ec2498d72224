"""P4: a model of 10 ms + 0.3 ms a row, sleeping and burning, alone and under more load than it can take."""

import json
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import load, models
from benchmarks.load import Load
from benchmarks.openloop import Seen, Shape, begun, open_loop
from benchmarks.peers import contenders, wire
from benchmarks.peers.server import Contender, Running, running
from benchmarks.result import Bar, Effort, Result

SERVER, CLIENT = {0}, {1}
FIXED_S, ROW_S, BATCH = 0.010, 0.0003, 32
FULL_S = FIXED_S + ROW_S * BATCH
FULL_RPS = BATCH / FULL_S
"""What always-full batches answer: the physical limit of this model."""
LANES = 1024
GROWTH_ROUNDS = 3
"""With four and sixteen times the requests, too; all rounds together take about nine minutes."""
DEADLINE_S = 0.25
"""That clients of an overloaded model set."""
Rounds = dict[str, list[float]]


def run(effort: Effort) -> Result:
    """Alternating rounds of the same model, sleeping and burning, with and without batching."""
    measured: dict[str, Rounds] = {"sleeping": {}, "burning": {}}
    for turn in range(effort.rounds):
        for work, seen in measured.items():
            _round(work, seen, effort, grows=turn < GROWTH_ROUNDS)
            sys.stdout.write(f"  round {turn + 1} of {effort.rounds}, {work}\n")
            sys.stdout.flush()
    poison = _poisoned()
    rows: list[Mapping[str, object]] = [
        {"model": work, **{what: round(statistics.median(values), 3) for what, values in seen.items()}}
        for work, seen in measured.items()
    ]
    rows.append({"model": "Torch, one poisoned row of 32", "right answers": poison})
    bars = [bar for work, seen in measured.items() for bar in _bars(work, seen)]
    bars.append(Bar("P4", "right answers beside one poisoned row of 32 (Torch)", poison, 31, "at least"))
    note = (
        f"physical limit: batches of {BATCH} that are always full, {FULL_RPS:.0f} rows/s; the distance is the c=32 bar"
    )
    grown = min(GROWTH_ROUNDS, effort.rounds)
    rounds = f"{effort.rounds} alternating rounds, {grown} of them with 4 x and 16 x the requests"
    return Result("batching", tuple(rows), tuple(bars), (note, rounds))


def _round(work: str, seen: Rounds, effort: Effort, *, grows: bool) -> None:
    def note(what: str, value: float) -> None:
        seen.setdefault(what, []).append(value)

    with running(_served(work, 1), SERVER) as plain:
        pair = load.bodies(plain, load.rows(8)[:1])
        note("c=1 p50 ms, batching off", load.wrk(plain, pair, 1, effort.seconds, CLIENT).p50_us / 1000)
        rate = 0.3 / (FIXED_S + ROW_S)
        note(
            "30 % Poisson mean ms, batching off",
            open_loop(plain, pair[0], Shape(rate, 3 * effort.seconds, LANES), CLIENT).mean_ms,
        )
    with running(_served(work, BATCH), SERVER) as server:
        pairs = load.bodies(server, load.rows(8))
        note("c=1 p50 ms", load.wrk(server, pairs, 1, effort.seconds, CLIENT).p50_us / 1000)
        note(
            "30 % Poisson mean ms", open_loop(server, pairs[0], Shape(rate, 3 * effort.seconds, LANES), CLIENT).mean_ms
        )
        for factor in (1, 4, 16) if grows else (1,):
            full = load.wrk(server, pairs, BATCH, factor, CLIENT)
            _note_full(note, factor, full)
        over = open_loop(server, _urgent(pairs[0]), Shape(2 * FULL_RPS, 2 * effort.seconds, LANES, DEADLINE_S), CLIENT)
        peak = seen["c=32 rows/s"][-1]
        note("2x overload goodput over peak", over.goodput / peak)
        note("2x overload late share", (over.late + over.other + over.unanswered) / max(1, over.sent))
        note("2x overload refusal p99 ms", over.refused_p99_ms)
        note("2x overload p99.9 ms", over.p999_ms)
    with running(_pair(work), SERVER) as both:
        alone, beside = _neighbours(both, effort)
        note("neighbour p99 ms, alone", alone.p99_ms)
        note("neighbour p99 ms, beside 10x overload", beside.p99_ms)
        note("neighbour answered share, beside 10x overload", beside.answered / max(1, beside.sent))


def _note_full(note: Any, factor: int, full: Load) -> None:
    if factor == 1:
        note("c=32 rows/s", full.rps)
        note("c=32 p99 ms", full.p99_us / 1000)
        note("c=32 p99.9 ms", full.p999_us / 1000)
    else:
        note(f"c=32 rows/s, {factor} x the requests", full.rps)


def _neighbours(both: Running, effort: Effort) -> tuple[Seen, Seen]:
    """Model B alone at 20 % of what it can, then with ten times what model A can beside it."""
    other = Running(_named(both.contender, "work-b"), both.port, both.pid)
    pair, pair_b = load.bodies(both, load.rows(8)[:1])[0], load.bodies(other, load.rows(8)[:1])[0]
    calm = Shape(0.2 * FULL_RPS / 4, 2 * effort.seconds, LANES)
    alone = open_loop(other, pair_b, calm, CLIENT)
    with begun(both, _urgent(pair), Shape(10 * FULL_RPS, calm.seconds + 1, LANES, DEADLINE_S), CLIENT) as flood:
        beside = open_loop(other, pair_b, calm, CLIENT)
        flood.communicate(timeout=120)
    return alone, beside


def _bars(work: str, seen: Rounds) -> list[Bar]:
    m = {what: statistics.median(values) for what, values in seen.items()}
    plain, mean = m["c=1 p50 ms, batching off"], m["30 % Poisson mean ms, batching off"]
    rate = m["c=32 rows/s"]
    beside = m["neighbour p99 ms, beside 10x overload"] / m["neighbour p99 ms, alone"]
    return [
        Bar("P4", f"{work}: c=1 p50 over batching off", m["c=1 p50 ms"] / plain, 1.10),
        Bar("P4", f"{work}: Poisson at 30 %, mean over batching off", m["30 % Poisson mean ms"] / mean, 1.05),
        Bar("P4", f"{work}: c=32, rows/s over always-full batches", rate / FULL_RPS, 0.9, "at least"),
        Bar("P4", f"{work}: c=32, p99 over one full batch", m["c=32 p99 ms"] / (FULL_S * 1000), 2.2),
        Bar("P4", f"{work}: 2x overload, goodput over peak", m["2x overload goodput over peak"], 0.95, "at least"),
        Bar("P4", f"{work}: 2x overload, share late", m["2x overload late share"], 0.01),
        Bar("P4", f"{work}: 2x overload, shed within, p99 ms", m["2x overload refusal p99 ms"], 5.0),
        Bar("P4", f"{work}: p99 of a neighbour at 10x overload, over alone", beside, 3.0),
        Bar("P4", f"{work}: cost of a row with 16 x the requests", rate / m["c=32 rows/s, 16 x the requests"], 1.2),
    ]


def _served(work: str, max_batch: int) -> Contender:
    return contenders.podium(
        f"Podium, {work}, batches of {max_batch}", models.works(work, ["work"], max_batch), model="work"
    )


def _pair(work: str) -> Contender:
    return contenders.podium(f"Podium, {work}, two models", models.works(work, ["work", "work-b"], BATCH), model="work")


def _named(contender: Contender, model: str) -> Contender:
    return Contender(contender.name, wire.oip(model), contender.launch, contender.ready_path)


def _poisoned() -> int:
    """Right answers of 32 requests at once, one of which makes the model raise."""
    import asyncio

    import httpx

    async def ask() -> int:
        with running(contenders.podium("Podium, Torch", models.poisonable(), model="touchy"), SERVER) as server:
            async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=64)) as client:
                bodies = [_row(float(n) if n != 13 else -1.0) for n in range(32)]
                answers = await asyncio.gather(*(client.post(server.url, content=body) for body in bodies))
        expected = [2.0 * n for n in range(32)]
        return sum(
            answer.status_code == 200 and json.loads(answer.content)["outputs"][0]["data"] == [wanted]
            for answer, wanted in zip(answers, expected, strict=True)
        )

    return asyncio.run(ask())


def _urgent(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """The same request with a deadline, and the same answer."""
    body = json.loads(pair[0])
    return json.dumps({**body, "parameters": {"timeout": round(DEADLINE_S * 1e6)}}).encode(), pair[1]


def _row(number: float) -> bytes:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [number]}
    return json.dumps({"inputs": [tensor]}).encode()
