"""How much memory a load may take: what the container has left beside what already runs, never what that uses.

On cgroup v2 the kernel ends the whole container when it runs out, so what serves must never depend on whom it picks.
"""

import asyncio

from podium.serving.workers.process import ChildProcess
from podium.telemetry.cgroup import MemoryState, memory_state
from podium.telemetry.processes import anonymous_bytes_of_tree, available_bytes

MIB = 1 << 20
RESERVE_BYTES = 64 * MIB
"""Left to the front end and to what serves: bodies, batches, allocator slack."""
LEAST_BYTES = 32 * MIB
"""A load is always let try with this much: headroom is a moment's figure, and page cache is given back for it."""
LOOK_EVERY_S = 0.1


def load_budget(sharers: int, state: MemoryState | None = None, available: int | None = None) -> int:
    """Private bytes that each of `sharers` processes loading at once may take; what they map from files is apart.

    The container's headroom, or the machine's where that is less. `state` and `available` as of now by default.
    """
    return max(LEAST_BYTES, left_bytes(state or memory_state(), available) // max(1, sharers))


def left_bytes(state: MemoryState, available: int | None = None) -> int:
    """What is left to loads, of the container or of the machine where that is less: below 0 where nothing is."""
    headroom = state.headroom_bytes
    machine = available_bytes() if available is None else available
    return (machine if headroom is None else min(headroom, machine)) - RESERVE_BYTES


async def overrun(process: ChildProcess, budget_bytes: int) -> int:
    """Returns once the process and its descendants have grown by more than `budget_bytes`: by how many bytes.

    Counts resident anonymous memory, mapped files only where they were written to. Runs until then, or cancelled.
    """
    first = await asyncio.to_thread(anonymous_bytes_of_tree, process.pid)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        grown = await asyncio.to_thread(anonymous_bytes_of_tree, process.pid) - first
        if grown > budget_bytes:
            return grown


def too_large(grown_bytes: int, budget_bytes: int) -> str:
    """Why a load was ended that had grown so far."""
    return (
        f"it took {grown_bytes / MIB:.0f} MiB of private memory, and the container has {budget_bytes / MIB:.0f} MiB "
        "left beside what it serves (raise resources.limits.memory)"
    )
