"""P10: memory of an idle pod, of each further worker, and of a second instance on mapped weights."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.models import WEIGHT_BYTES, WIDTH, echo, stack
from benchmarks.processes import Memory, memory_of_tree
from benchmarks.result import Bar, Result
from benchmarks.served import Served, served

MIB = 1 << 20
MORE = 4


def run() -> Result:
    """Start each server once, answer a request on it, and read the memory of its processes."""
    python_one = _measure(echo(1), ask_echo)
    python_more = _measure(echo(1 + MORE), ask_echo)
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as directory:
        torch_one = _measure(stack(1, Path(directory)), ask_stack)
        torch_two = _measure(stack(2, Path(directory)), ask_stack)
    rows = (
        _row("python engine, 1 worker", python_one),
        _row(f"python engine, {1 + MORE} workers", python_more),
        _row("torch engine, 1 worker", torch_one),
        _row("torch engine, 2 workers", torch_two),
    )
    second = _pss(torch_two) - _pss(torch_one)
    bars = (
        Bar("P10", "idle runtime without torch, sum of PSS without the arena, MiB", _pss(python_one) / MIB, 110),
        Bar("P10", "each further Python worker, private MiB", _worker_private(python_more) / MIB, 15),
        Bar("P10", "each further Torch worker, private MiB", _worker_private(torch_two) / MIB, 20),
        Bar("P10", "a second instance on mapped weights adds, share of the weight bytes", second / WEIGHT_BYTES, 0.10),
    )
    notes = (f"Torch weights: {WEIGHT_BYTES / MIB:.0f} MiB, fp32, mapped from safetensors; process by process in rows",)
    return Result("footprint", rows, bars, notes)


def ask_echo(server: Served) -> None:
    """One request, its answer checked."""
    outputs = server.predict("echo", {"x": {"dtype": "FP32", "shape": [1, 4], "data": [[1, 2, 3, 4]]}})
    assert outputs["y"] == {"dtype": "FP32", "shape": [1, 4], "data": [[2.0, 4.0, 6.0, 8.0]]}, outputs


def ask_stack(server: Served) -> None:
    """One request through identity matrices, its answer checked."""
    row = [[float(i % 7) for i in range(WIDTH)]]
    outputs = server.predict("stack", {"x": {"dtype": "FP32", "shape": [1, WIDTH], "data": row}})
    answer = outputs["y"]
    assert isinstance(answer, dict)
    assert answer["data"] == row, "the identity matrix gave something else back"


def _measure(documents: list[Mapping[str, object]], ask: Callable[[Served], None]) -> list[Memory]:
    with served(documents) as server:
        for _ in range(16):  # so that every worker has answered and its first-use pages are counted
            ask(server)
        return memory_of_tree(server.pid)


def _pss(processes: list[Memory]) -> int:
    return sum(process.pss for process in processes)


def _worker_private(processes: list[Memory]) -> float:
    """Mean private bytes of the workers: all processes but the front end and the fork server, which came first."""
    workers = sorted(processes[1:], key=lambda process: process.pid)[1:]
    return sum(process.private for process in workers) / len(workers)


def _row(name: str, processes: list[Memory]) -> Mapping[str, object]:
    return {
        "case": name,
        "pss_mib": round(_pss(processes) / MIB, 1),
        "arena_pss_mib": round(sum(p.arena_pss for p in processes) / MIB, 1),
        "processes": [
            f"{p.command.split('/')[-1][:48]}: pss {p.pss / MIB:.1f}, private {p.private / MIB:.1f}" for p in processes
        ],
    }
