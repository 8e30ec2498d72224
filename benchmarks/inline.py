"""Where a tensor had better travel, in the message or in a slot of the arena: round trips by size, in alternation.

The evidence for podium.serving.workers.pod.INLINE_BYTES. One worker doubles the input; request to answer, without HTTP.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.result import Bar, Effort, Result
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import PodOptions, PodResources, WorkerGroup
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member

KIB = 1 << 10
SIZES = tuple(size * KIB for size in (1, 4, 8, 16, 32, 64, 128, 256))
ARENA_BYTES = 64 << 20
TRIPS_PER_SECOND = 500
"""Of one round and size, so that a round takes about the seconds asked for."""
MODEL = "class Model:\n    def infer(self, inputs):\n        return {'y': inputs['x'] * 2}\n"
DEADLINE_S = 60.0


def run(effort: Effort) -> Result:
    """Median round trip in microseconds for each size and way."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as directory:
        trips = asyncio.run(_measured(Path(directory), effort))
    rows = []
    for size, (inline, slot) in trips.items():
        rows.append(
            {"bytes": size, "inline_us": round(inline), "slot_us": round(slot), "ratio": round(inline / slot, 2)}
        )
    worst = max(inline / slot for size, (inline, slot) in trips.items() if size <= INLINE_BYTES)
    bar = Bar("inline", f"up to {INLINE_BYTES} bytes, in the message against in a slot", worst, 1.05)
    return Result("inline", tuple(rows), (bar,))


async def _measured(folder: Path, effort: Effort) -> dict[int, tuple[float, float]]:
    (folder / "model.py").write_text(MODEL)
    ways = [await _started(folder, folder / name, nbytes) for name, nbytes in (("i", 1 << 20), ("s", 0))]
    count = max(50, round(effort.seconds * TRIPS_PER_SECOND / len(SIZES)))
    try:
        found: dict[int, tuple[list[float], list[float]]] = {size: ([], []) for size in SIZES}
        for _ in range(effort.rounds):
            for size in SIZES:
                for (_, group), trips in zip(ways, found[size], strict=True):
                    trips.append(await _round_trip_us(group, size, count))
        return {size: (median(inline), median(slot)) for size, (inline, slot) in found.items()}
    finally:
        for pod, group in ways:
            await group.stop(1.0)
            await pod.close()


async def _started(artifact: Path, run_dir: Path, inline_bytes: int) -> tuple[PodResources, WorkerGroup]:
    pod = await PodResources.open(ARENA_BYTES, run_dir, PodOptions(inline_bytes=inline_bytes))
    engine = EngineSpec(kind=EngineKind.PYTHON, entrypoint="model:Model")
    member = Member(name="double", load_hash="h", version="1", artifact=Artifact(), engine=engine)
    return pod, await WorkerGroup.start(member, artifact, pod=pod)


async def _round_trip_us(group: WorkerGroup, size: int, count: int) -> float:
    """Median over `count` requests, one at a time; every answer is checked."""
    array = np.arange(size // 4, dtype=np.float32).reshape(1, -1)
    right = (array * 2).tobytes()
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        outputs = await group.infer(
            {"x": Tensor.from_array(array)}, request_id="bench", deadline=time.monotonic() + DEADLINE_S
        )
        taken.append(time.perf_counter() - began)
        if bytes(outputs["y"].data) != right:
            raise RuntimeError(f"a wrong answer at {size} bytes")
        outputs["y"].release()
    return median(taken) * 1e6
