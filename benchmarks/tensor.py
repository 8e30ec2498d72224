"""P2: a float tensor of 150 KB and of 1 MB there and doubled back, binary and JSON, against other servers."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import httpx
import numpy as np
import orjson

from benchmarks import load, models, sockets
from benchmarks.load import Load
from benchmarks.peers import contenders, wire
from benchmarks.peers.server import Contender, Running, running
from benchmarks.result import Bar, Effort, Result
from benchmarks.rounds import Measured, alternate

SERVER, CLIENT = {0}, {1}
SIZES = {"150 KB": 150 << 8, "1 MB": 1 << 18}
"""Elements of FP32."""
CONNECTIONS = 4
GROWTH_SECONDS = 1.0
"""Times 4 and 16; all rounds together take about ten minutes."""
BINARY, JSON = "binary", "JSON"
BIG_JSON_BYTES = 8 << 20
PODIUM, TRITON = "Podium", "Triton, Python backend, delay 0 ms"
HEADER = "inference-header-content-length"


def run(effort: Effort) -> Result:
    """Alternating rounds of everybody at both sizes, then the tail of echo beside large JSON bodies."""
    seen: dict[str, Measured] = {}
    for size, elements in SIZES.items():
        for name, measured in alternate(
            _contenders(elements), _measure(size, elements, effort), effort.rounds, SERVER
        ).items():
            kept = seen.setdefault(name, measured)
            kept.loads.update(measured.loads)
            kept.missing = kept.missing or measured.missing
    tails = [_tails(effort) for _ in range(effort.rounds)]
    alone, beside = statistics.median(tail[0] for tail in tails), statistics.median(tail[1] for tail in tails)
    rows: list[Mapping[str, object]] = [measured.row("server on one, load on another") for measured in seen.values()]
    rows.append({"case": "echo p99 us, alone and beside 8 MiB JSON bodies", "alone": alone, "beside": beside})
    rows += _ingest(seen)
    bars = [bar for size in SIZES for bar in _bars(seen, size)]
    bars.append(_bar("echo p99 beside 8 MiB JSON bodies, over alone", beside / alone, 2.0, at_least=False))
    return Result("tensor", tuple(rows), tuple(bars), _notes(seen))


def _contenders(elements: int) -> list[Contender]:
    documents = models.echoes(1, width=elements)
    return [
        contenders.podium(PODIUM, documents),
        contenders.triton(0, width=elements),
        contenders.mosec(0, "orjson"),
        contenders.litserve(0.0),
        contenders.own("FastAPI + pydantic, in process", "fastapi_echo.py", wire.plain("/predict")),
        contenders.own("raw uvicorn + orjson", "raw_uvicorn.py", wire.oip("echo")),
    ]


def _measure(size: str, elements: int, effort: Effort) -> Callable[[Running], Iterable[tuple[str, Load]]]:
    def measure(server: Running) -> Iterable[tuple[str, Load]]:
        numbers = [(np.arange(elements) % 997 - 498).astype(float).tolist()]
        pairs = load.bodies(server, numbers)
        load.wrk(server, pairs, CONNECTIONS, 1.0, CLIENT)
        yield f"{size} {JSON}", load.wrk(server, pairs, CONNECTIONS, effort.seconds, CLIENT)
        if server.contender.name in (PODIUM, TRITON):
            body, header = _binary(numbers[0])
            factors = (1, 4, 16) if server.contender.name == PODIUM and size == "1 MB" else (1,)
            for factor in factors:
                note = f"{size} {BINARY}" + (f", {factor} x the requests" if factor > 1 else "")
                seconds = effort.seconds if effort.quick or factor == 1 else factor * GROWTH_SECONDS
                yield note, _binary_load(server, body, header, seconds, numbers[0])

    return measure


def _binary(numbers: Sequence[float]) -> tuple[bytes, int]:
    """A body of the binary tensor extension, and the length of its JSON."""
    data = np.array(numbers, dtype="<f4").tobytes()
    tensor = {
        "name": "x",
        "shape": [1, len(numbers)],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return head + data, len(head)


def _binary_load(server: Running, body: bytes, header: int, seconds: float, numbers: Sequence[float]) -> Load:
    """Binary bodies do not go through a Lua source: four threads of raw sockets; every answer is compared."""
    wanted = (np.array(numbers, dtype="<f4") * 2).tobytes()
    start = f"POST {server.contender.wire.path} HTTP/1.1\r\nhost: x\r\n"
    head = f"{start}content-length: {len(body)}\r\n{HEADER}: {header}\r\n\r\n"
    return sockets.load(server, head.encode() + body, wanted, CONNECTIONS, seconds, CLIENT)


def _tails(effort: Effort) -> tuple[float, float]:
    """p99 of echo in microseconds, alone and while bodies of 8 MiB of JSON arrive for another model."""
    documents = [*models.echoes(1), *[d for d in models.echoes(2, width=-1) if d["metadata"] == {"name": "echo-1"}]]
    contender = contenders.podium("Podium, two models", documents, json_bytes=BIG_JSON_BYTES + 1024)
    with running(contender, SERVER) as server:
        pairs = load.bodies(server, load.rows(models.ECHO_WIDTH))
        load.wrk(server, pairs, 10, 1.0, CLIENT)
        alone = load.wrk(server, pairs, 10, 2 * effort.seconds, CLIENT).p99_us
        stop, codes = threading.Event(), Counter[int]()
        feeder = threading.Thread(target=_feed, args=(server, stop, codes))
        feeder.start()
        try:
            beside = load.wrk(server, pairs, 10, 2 * effort.seconds, CLIENT).p99_us
        finally:
            stop.set()
            feeder.join(60)
    if not codes[200] or codes.keys() - {200, 503}:
        raise AssertionError(f"the large bodies were answered with {dict(codes)}; expected 200, and 503 where full")
    return alone, beside


def _feed(server: Running, stop: threading.Event, codes: Counter[int]) -> None:
    number = b"0.125,"
    count = (BIG_JSON_BYTES - 200) // len(number)
    data = (number * count)[:-1]
    shape = b'{"inputs":[{"name":"x","shape":[1,%d],"datatype":"FP32","data":[' % count
    url = server.url.replace("/echo/", "/echo-1/")
    with httpx.Client(timeout=60) as client:
        while not stop.is_set():
            codes[client.post(url, content=shape + data + b"]}]}").status_code] += 1
            time.sleep(0.01)


def _ingest(seen: Mapping[str, Measured]) -> list[Mapping[str, object]]:
    rows: list[Mapping[str, object]] = []
    for size, elements in SIZES.items():
        for how in (BINARY, JSON):
            rates = {name: round(m.rps(f"{size} {how}") * elements * 4 / 1e6) for name, m in seen.items()}
            rows.append(
                {"case": f"MB/s of tensor in, {size} {how}", **{name: rate for name, rate in rates.items() if rate}}
            )
    return rows


def _bars(seen: Mapping[str, Measured], size: str) -> list[Bar]:
    ours = seen[PODIUM]
    binary, own_json = ours.rps(f"{size} {BINARY}"), ours.rps(f"{size} {JSON}")
    python = {
        name: m.rps(f"{size} {JSON}") for name, m in seen.items() if name not in (PODIUM, TRITON) and m.missing is None
    }
    workers = [rate for name, rate in python.items() if name.startswith(("mosec", "LitServe"))]
    peers = [rate for name, rate in python.items() if not name.startswith("raw")]
    return [
        _bar(f"{size}: binary over own JSON, requests/s", _over(binary, own_json), 5.0),
        _bar(f"{size}: own JSON over the best Python peer's", _over(own_json, max(peers, default=0.0)), 1.0),
        _bar(f"{size}: binary over JSON of mosec and LitServe", _over(binary, max(workers, default=0.0)), 10.0),
        _bar(f"{size}: binary over Triton's binary", _over(binary, seen[TRITON].rps(f"{size} {BINARY}")), 1.0),
    ]


def _bar(text: str, value: float | None, limit: float, *, at_least: bool = True) -> Bar:
    return Bar("P2", text, value, limit, "at least" if at_least else "at most")


def _over(value: float, base: float) -> float | None:
    return value / base if value and base else None


def _notes(seen: Mapping[str, Measured]) -> tuple[str, ...]:
    rate = sockets.loopback_mb_s()
    ours = seen[PODIUM].rps("1 MB binary") * (SIZES["1 MB"] * 4) / 1e6
    away = rate / ours if ours else 0.0
    return (
        f"physical limit: {rate:.0f} MB/s over loopback there and back; 1 MB binary, {ours:.0f}, is {away:.1f} x away",
    )
