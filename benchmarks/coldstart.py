"""P9: container start to ready, against importing torch and reading the weights; and a crashed worker back at work."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.footprint import ask_echo, ask_stack
from benchmarks.models import echo, stack
from benchmarks.processes import tree
from benchmarks.result import Bar, Result
from benchmarks.served import Served, served

ROUNDS = 5
RECOVERY_DEADLINE_S = 30.0
_FLOOR = """
import sys
import torch
from safetensors import safe_open
with safe_open(sys.argv[1], framework="pt") as weights:
    total = sum(float(weights.get_tensor(name).sum()) for name in weights.keys())
assert total > 0
"""


def run() -> Result:
    """Alternate floor and server, medians of five rounds, page cache warm."""
    floors: list[float] = []
    starts: list[float] = []
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as directory:
        resources = stack(1, Path(directory))
        weights = Path(directory) / "model.safetensors"
        for _ in range(ROUNDS):
            floors.append(_timed(lambda: _floor(weights)))
            begun = time.monotonic()
            with served(resources) as server:
                starts.append(time.monotonic() - begun)
                ask_stack(server)
    recoveries = [_recovery() for _ in range(ROUNDS)]
    floor, start = statistics.median(floors), statistics.median(starts)
    recovery = statistics.median(recoveries)
    rows = (
        {"case": "import torch and read the weights once", "seconds": [round(x, 3) for x in floors]},
        {"case": "podium serve to ready, Torch engine", "seconds": [round(x, 3) for x in starts]},
        {"case": "Python worker killed to next answer", "seconds": [round(x, 3) for x in recoveries]},
    )
    bars = (
        Bar("P9", "start to ready, over importing torch and reading the weights", start / floor, 1.3),
        Bar("P9", "crashed worker answers again, ms (the echo loads nothing)", recovery * 1000, 100),
    )
    return Result("coldstart", rows, bars, ("page cache warm; process start, not container start",))


def _floor(weights: Path) -> None:
    subprocess.run([sys.executable, "-c", _FLOOR, str(weights)], check=True, timeout=120)


def _timed(work: Callable[[], None]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _recovery() -> float:
    """Seconds from SIGKILL of the only worker to the next right answer."""
    with served(echo(1)) as server:
        ask_echo(server)
        os.kill(max(tree(server.pid)), signal.SIGKILL)
        begun = time.monotonic()
        while time.monotonic() - begun < RECOVERY_DEADLINE_S:
            if _answers(server):
                return time.monotonic() - begun
        raise TimeoutError(f"no answer {RECOVERY_DEADLINE_S:g} s after the worker was killed")


def _answers(server: Served) -> bool:
    try:
        ask_echo(server)
    except httpx.HTTPStatusError as refused:
        if refused.response.status_code == 503:
            time.sleep(0.001)
            return False
        raise
    return True
