"""Holds a load to the memory that the pod has left for it, so that the kernel never has to choose whom to kill.

RLIMIT_DATA counts private writable mappings, touched or not: anonymous memory, thread stacks, and a file that is mapped
copy-on-write, as weights are. What allocates beyond it gets MemoryError (or the error of its library). The front end
watches what is really resident (serving/workers/memory.py), since a limit on mappings has to leave some slack.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MIB = 1 << 20
SLACK_BYTES = 64 * MIB
"""Stacks of the model's threads and arenas of the allocator: mapped, hardly touched."""
OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "out of memory", "bad allocation")


@contextmanager
def held_to(load_bytes: int | None, artifact_dir: Path) -> Iterator[None]:
    """Within, this process can map at most `load_bytes` more than now, and its artifact once. None: no limit.

    Processes that are started within keep the limit.
    """
    if load_bytes is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = mapped_data_bytes() + load_bytes + bytes_below(artifact_dir) + SLACK_BYTES
    _, hard = before
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a load says, in its library's words, that memory was refused."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)


def beyond(load_bytes: int) -> str:
    """What to tell the model's author."""
    return (
        f"loading was refused more than {load_bytes / MIB:.0f} MiB of memory, which is what the container has left "
        "beside what it serves; raise resources.limits.memory, or map the weights instead of reading them"
    )


def mapped_data_bytes() -> int:
    """What RLIMIT_DATA counts of this process now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def bytes_below(folder: Path) -> int:
    """Size of all files below a folder: what a model may map of its own artifact."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(directory, name)).st_size  # noqa: PTH116, PTH118 - thousands of files
    return total
