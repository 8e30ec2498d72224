"""What workers and fork servers leave behind at their death is gone before the next worker starts."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.worker.models import GroupMaker, ask, column
from tests.runtime.worker.stops import stopped
from tests.support.alive import alive
from tests.support.waiting import eventually

from podium.errors import WorkerLoadError
from podium.serving.workers.pod import PodResources
from podium.telemetry.processes import ZOMBIE, children_of
from podium.worker.orphans import MAX_ZOMBIES, collect_orphans
from podium_crds.assignment import EngineKind

LEAVES_DAEMONS = """
    import os
    import subprocess
    import time
    from pathlib import Path

    class Model:
        '''Starts a child in a session of its own, and a daemon that nobody is the parent of any more.'''

        def load(self, ctx):
            folder = Path(ctx.parameters["folder"])
            left = [int(pid) for pid in (folder / "left").read_text().split()] if (folder / "left").exists() else []
            with (folder / "seen_at_load").open("a") as log:
                log.write(f"{sum(Path('/proc', str(pid)).exists() for pid in left)} ")
            child = subprocess.Popen(["sleep", "300"], start_new_session=True)
            script = f"setsid sh -c 'echo $$ > {folder}/daemon; exec sleep 300' & exit 0"
            subprocess.run(["sh", "-c", script], check=True, start_new_session=True)
            while not (folder / "daemon").exists() or not (folder / "daemon").read_text().strip():
                time.sleep(0.005)
            (folder / "left").write_text(f"{child.pid} {(folder / 'daemon').read_text()}")
            (folder / "daemon").unlink()

        def infer(self, inputs):
            return {"y": inputs["x"] * 2}
"""

DIES_BEFORE_IT_NAMES_THE_WORKER = """
import os
import signal
import socket
import sys

marker = os.environ["FORK_SERVER_DIED"]
if "podium.worker.forkserver" in sys.orig_argv and not os.path.exists(marker):
    original = socket.socket.sendall

    def sendall(self, data):
        if data != bytes(4):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, data)

    socket.socket.sendall = sendall
"""

STOPS_BEFORE_HELLO = """
import os
import signal
import sys

folder = os.environ.get("STOP_BEFORE_HELLO")
if folder and "podium.worker.main" in sys.orig_argv and not os.path.exists(folder + "/stopped"):
    with open(folder + "/new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(folder + "/new", folder + "/stopped")
    os.kill(os.getpid(), signal.SIGSTOP)
"""

HAS_A_THREAD = """
import sys
import threading
import time

if "podium.worker.forkserver" in sys.orig_argv:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""


SPAWNED = 2
"""Threads of a Python model whose worker is spawned rather than forked."""


@pytest.fixture
async def groups(tmp_path: Path) -> AsyncIterator[GroupMaker]:
    """A pod of its own: these tests break it."""
    pod = await PodResources.open(4 << 20, tmp_path / "run")
    maker = GroupMaker(pod, tmp_path)
    yield maker
    await maker.stop()
    await pod.close()


def left(groups: GroupMaker) -> list[int]:
    return [int(pid) for pid in (groups.folder / "left").read_text().split()]


async def test_what_a_worker_leaves_in_other_sessions_is_gone_before_the_next_one_loads(groups: GroupMaker) -> None:
    group = await groups.start(LEAVES_DAEMONS)
    first = left(groups)
    assert len(first) == 2
    assert all(alive(pid) for pid in first)
    os.kill(group.stats().pids[0], signal.SIGKILL)
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))
    assert not any(alive(pid) for pid in first)
    assert (groups.folder / "seen_at_load").read_text().split() == ["0", "0"]


async def test_a_stopped_group_leaves_nothing_either(groups: GroupMaker) -> None:
    group = await groups.start(LEAVES_DAEMONS)
    pids = left(groups)
    await group.stop(1.0)
    assert not any(alive(pid) for pid in pids)


async def test_the_death_of_one_worker_spares_the_daemons_of_another(groups: GroupMaker) -> None:
    victim = await groups.start()
    await groups.start(LEAVES_DAEMONS)
    os.kill(victim.stats().pids[0], signal.SIGKILL)
    np.testing.assert_array_equal(await ask(victim, column(1)), column(2))
    assert all(alive(pid) for pid in left(groups))


async def test_a_worker_that_a_dying_fork_server_did_not_name_is_ended_and_another_loads(
    groups: GroupMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(DIES_BEFORE_IT_NAMES_THE_WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("FORK_SERVER_DIED", str(tmp_path / "died"))
    group = await groups.start()
    assert (tmp_path / "died").exists()
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))
    ours = {*group.stats().pids, groups.pod.fork_servers.pid(EngineKind.PYTHON)}
    strangers = [seen for seen in children_of(os.getpid()) if seen.session != os.getsid(0) and seen.pid not in ours]
    assert not strangers


@pytest.fixture
def stops_before_hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first worker that is spawned while STOP_BEFORE_HELLO names this folder stops before it has said anything."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(STOPS_BEFORE_HELLO)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


async def test_a_worker_killed_before_its_first_hello_is_a_failed_load(
    groups: GroupMaker, stops_before_hello: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_BEFORE_HELLO", str(stops_before_hello))
    starting = asyncio.create_task(groups.start(engine={"threads": SPAWNED}))
    os.kill(await eventually(lambda: stopped(stops_before_hello)), signal.SIGKILL)
    with pytest.raises(WorkerLoadError, match="SIGKILL while loading"):
        await starting
    assert not [seen for seen in children_of(os.getpid()) if seen.session != os.getsid(0)]
    assert groups.pod.arena.stats().slots == 0


async def test_a_restarted_worker_killed_before_its_hello_loses_no_request(
    groups: GroupMaker, stops_before_hello: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await groups.start(engine={"threads": SPAWNED})
    monkeypatch.setenv("STOP_BEFORE_HELLO", str(stops_before_hello))
    os.kill(group.stats().pids[0], signal.SIGKILL)
    waiting = asyncio.create_task(ask(group, column(1)))
    os.kill(await eventually(lambda: stopped(stops_before_hello)), signal.SIGKILL)
    np.testing.assert_array_equal(await waiting, column(2))
    assert groups.pod.arena.stats().slots == 0


async def test_a_fork_server_with_a_second_thread_forks_nothing(
    groups: GroupMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HAS_A_THREAD)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.environ.get('PYTHONPATH', '')}")
    group = await groups.start()
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))
    assert groups.pod.fork_servers.pid(EngineKind.PYTHON) is None


async def test_a_model_on_a_gpu_is_spawned_since_cuda_does_not_survive_a_fork(groups: GroupMaker) -> None:
    groups.pod.devices = ("cuda:0",)
    groups.pod.prepare(groups.member().engine)
    group = await groups.start()
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))
    assert groups.pod.fork_servers.kinds() == ()


def test_a_worker_collects_orphans_beyond_a_bound_and_leaves_the_youngest() -> None:
    pids = [os.posix_spawn("/bin/true", ["true"], {}) for _ in range(MAX_ZOMBIES + 3)]

    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    before = [seen.pid for seen in children_of(os.getpid()) if seen.state == ZOMBIE]
    collected = collect_orphans()
    assert len(collected) == len(before) - MAX_ZOMBIES
    assert max(pids) not in collected
    for pid in set(pids) - set(collected):
        os.waitpid(pid, 0)
    assert collect_orphans() == []
