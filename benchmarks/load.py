"""Closed-loop load: `wrk` with one thread and c connections, every answer compared byte for byte.

Sixteen requests with different numbers go round. An answer must be one of the sixteen right answers; where the
protocol carries an id, that ties it to its request.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import NotToBeHad
from benchmarks.peers.server import Running

VARIANTS = 16
TIMEOUT_S = 10
SCRIPT = """
local requests, right, cut = {}, {}, %(cut)s
%(tables)s
local turn, wrong = 0, 0
local threads = {}
function setup(thread) table.insert(threads, thread) end
function request() turn = turn %% #requests + 1 return requests[turn] end
function response(status, headers, body)
  if cut ~= "" then local at = body:find(cut, 1, true) if at then body = body:sub(1, at - 1) end end
  if status ~= 200 or not right[body] then wrong = wrong + 1 end
  wrong_count = wrong
end
function done(summary, latency, requests)
  local wrong = 0
  for _, thread in ipairs(threads) do wrong = wrong + (thread:get("wrong_count") or 0) end
  local e = summary.errors
  io.stdout:write(string.format(
    '\\n@@{"requests":%%d,"us":%%d,"wrong":%%d,"errors":%%d,"p50_us":%%d,"p99_us":%%d,"p999_us":%%d}\\n',
    summary.requests, summary.duration, wrong, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


class WrongAnswersError(Exception):
    """A server answered something else than it should: its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw."""

    requests: int
    rps: float
    p50_us: float
    p99_us: float
    p999_us: float


def bodies(server: Running, numbers: Sequence[Sequence[float]]) -> list[tuple[bytes, bytes]]:
    """Requests and their right answers, each checked to be exactly twice the numbers in FP32."""
    pairs = []
    for index, row in enumerate(numbers):
        body = server.contender.wire.encode(row, f"r{index:02d}")
        answer = server.ask(body)
        if server.contender.wire.decode(answer) != [2 * number for number in row]:
            raise WrongAnswersError(f"{server.contender.name} answered {answer[:200]!r} to {body[:200]!r}")
        pairs.append((body, answer))
    return pairs


def rows(width: int) -> list[list[float]]:
    """Numbers that FP32 holds exactly, twice them too: different for each variant."""
    return [[(index + 1) * (column % 97 - 48) / 8 for column in range(width)] for index in range(VARIANTS)]


def wrk(
    server: Running, pairs: Sequence[tuple[bytes, bytes]], connections: int, seconds: float, cpus: set[int]
) -> Load:
    """One run. Raises WrongAnswersError, NotToBeHad without wrk."""
    return _run(server.contender.name, server.url, _script(server, pairs), connections, seconds, cpus)


def wrk_binary(
    url: str,
    headers: Mapping[str, str],
    pairs: Sequence[tuple[bytes, bytes]],
    connections: int,
    seconds: float,
    cpus: set[int],
) -> Load:
    """One run with bodies of any bytes, each answer compared whole. Raises as `wrk`."""
    lines = ["local head = {" + ", ".join(f"[ {_lua(key)} ] = {_lua(value)}" for key, value in headers.items()) + "}"]
    path = "/" + url.split("/", 3)[3]
    for body, answer in pairs:
        lines.append(f"table.insert(requests, wrk.format('POST', {_lua(path)}, head, {_lua_bytes(body)}))")
        lines.append(f"right[ {_lua_bytes(answer)} ] = true")
    tables = "function init(args)\n" + "\n".join(lines) + "\nend"
    return _run(url, url, SCRIPT % {"cut": _lua(""), "tables": tables}, connections, seconds, cpus)


def _run(name: str, url: str, lua: str, connections: int, seconds: float, cpus: set[int]) -> Load:
    if shutil.which("wrk") is None:
        raise NotToBeHad("wrk is not installed (Debian package wrk)")
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as directory:
        script = Path(directory) / "load.lua"
        script.write_text(lua, encoding="utf-8")
        placed = ["taskset", "-c", ",".join(map(str, sorted(cpus)))]
        tool = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", f"--timeout={TIMEOUT_S}"]
        command = [*placed, *tool, "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    if "@@" not in done.stdout:
        raise RuntimeError(f"wrk said {done.stdout[-500:]} {done.stderr[-500:]}")
    seen = json.loads(done.stdout.split("@@", 1)[1].splitlines()[0])
    if seen["wrong"] or seen["errors"]:
        raise WrongAnswersError(f"{name}: {seen['wrong']} wrong answers, {seen['errors']} errors: {seen}")
    rps = seen["requests"] / seen["us"] * 1e6
    return Load(seen["requests"], rps, seen["p50_us"], seen["p99_us"], seen["p999_us"])


def _script(server: Running, pairs: Sequence[tuple[bytes, bytes]]) -> str:
    cut = server.contender.wire.ends_at
    path = server.contender.wire.path
    lines = ['local head = {["content-type"] = "application/json"}']
    for body, answer in pairs:
        kept = answer.decode().split(cut, 1)[0] if cut else answer.decode()
        lines.append(f"table.insert(requests, wrk.format('POST', {_lua(path)}, head, {_lua(body.decode())}))")
        lines.append(f"right[ {_lua(kept)} ] = true")
    made_late = "\n".join(lines)
    return SCRIPT % {"cut": _lua(cut), "tables": f"function init(args)\n{made_late}\nend"}


def _lua(text: str) -> str:
    """A Lua string of any text."""
    return "[==[" + text + "]==]"


def _lua_bytes(data: bytes) -> str:
    """A Lua string of any bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'
