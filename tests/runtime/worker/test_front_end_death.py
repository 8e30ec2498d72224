"""When the front end is killed, no worker, no fork server and no shared memory is left."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from tests.support.alive import alive
from tests.support.waiting import eventually


def shared_memory(pid: int) -> set[Path]:
    """Named shared memory that a process has mapped; others on this machine may use some, too."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {Path(line[line.index("/dev/shm/") :]) for line in lines if "/dev/shm/" in line}


@pytest.mark.parametrize("start", ["fork", "spawn"])
async def test_nothing_outlives_a_killed_front_end(tmp_path: Path, start: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.runtime.worker.front_end", str(tmp_path), start, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pids = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    assert len(pids) == (3 if start == "fork" else 2)
    assert all(alive(pid) for pid in pids)
    shared = {path for pid in (process.pid, *pids) for path in shared_memory(pid)}
    process.kill()
    await process.wait()
    await eventually(lambda: not any(alive(pid) for pid in pids), within_s=10)
    assert not [path for path in shared if path.exists()]
