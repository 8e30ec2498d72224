"""A front end of its own process, for tests that kill it: starts a group, prints the pids, works until it is killed."""

import asyncio
import json
import sys
from pathlib import Path

from tests.runtime.worker.models import BLOCK, CONTROLLED, GroupMaker, ask, column
from tests.support.waiting import eventually

from podium.serving.workers.pod import PodOptions, PodResources
from podium_crds.assignment import EngineKind


async def main(folder: Path, fork: str) -> None:
    """Never ends by itself."""
    pod = await PodResources.open(4 << 20, folder / "run", PodOptions(use_fork_server=fork == "fork"))
    maker = GroupMaker(pod, folder)
    group = await maker.start(CONTROLLED, instances=2)
    work = asyncio.create_task(ask(group, column(BLOCK), within_s=600))
    await eventually(maker.begun)
    server = pod.fork_servers.pid(EngineKind.PYTHON)
    print(json.dumps([*group.stats().pids, *([server] if server else [])]), flush=True)
    await work


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
