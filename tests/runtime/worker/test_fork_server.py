"""Workers come from the fork server while it is there, live on when it dies, and come without it where need be."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.worker.models import GroupMaker, ask, column
from tests.support.waiting import eventually

from podium.serving.workers.pod import PodOptions, PodResources
from podium.serving.workers.reaper import Reaper, zombie_children
from podium_crds.assignment import EngineKind

INTROSPECT = """
    import os
    import sys
    import numpy as np
    class Model:
        def load(self, ctx):
            self.seed = np.random.randint(2**31)
        def infer(self, inputs):
            facts = [os.getppid(), os.getsid(0), os.getpid(), self.seed, int(os.environ["OMP_NUM_THREADS"])]
            return {"y": np.array([facts])}
"""


@pytest.fixture
async def groups(tmp_path: Path) -> AsyncIterator[GroupMaker]:
    """A pod of its own: these tests break it."""
    pod = await PodResources.open(4 << 20, tmp_path / "run")
    maker = GroupMaker(pod, tmp_path)
    yield maker
    await maker.stop()
    await pod.close()


async def facts(groups: GroupMaker, **changes: object) -> list[int]:
    group = await groups.start(INTROSPECT, **changes)
    answer: list[int] = (await ask(group, column(1)))[0].tolist()
    return answer


async def test_a_worker_is_the_front_ends_own_child_in_a_session_of_its_own(groups: GroupMaker) -> None:
    parent, session, pid, _, threads = await facts(groups)
    assert parent == os.getpid()
    assert session == pid
    assert threads == 1
    assert groups.pod.fork_servers.pid(EngineKind.PYTHON) is not None


@pytest.mark.parametrize("threads", [1, 3])  # forked, spawned
async def test_no_worker_lets_a_library_report_to_its_vendor(
    groups: GroupMaker, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    source = """
        import os

        class Model:
            def infer(self, inputs):
                return {"y": inputs["x"] * float(os.environ["ORT_DISABLE_TELEMETRY"])}
    """
    group = await groups.start(source, engine={"threads": threads})
    assert await ask(group, column(7)) == column(7)


async def test_two_workers_do_not_draw_the_same_random_numbers(groups: GroupMaker) -> None:
    assert (await facts(groups))[3] != (await facts(groups))[3]


async def test_the_death_of_the_fork_server_harms_no_worker_and_it_is_restarted(groups: GroupMaker) -> None:
    group = await groups.start()
    first = groups.pod.fork_servers.pid(EngineKind.PYTHON)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: groups.pod.fork_servers.pid(EngineKind.PYTHON) != first)
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))
    assert group.stats().restarts == 0
    await groups.start()
    assert groups.pod.fork_servers.pid(EngineKind.PYTHON) not in (None, first)


async def test_a_fork_server_that_stops_answering_is_given_up_for_a_spawned_worker(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await groups.start()
    server = groups.pod.fork_servers.pid(EngineKind.PYTHON)
    assert server is not None
    monkeypatch.setattr("podium.serving.workers.forkserver.FORK_TIMEOUT_S", 0.2)
    os.kill(server, signal.SIGSTOP)
    group = await groups.start()
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))
    await eventually(lambda: groups.pod.fork_servers.pid(EngineKind.PYTHON) != server)


async def test_a_worker_with_more_threads_is_spawned_since_pools_are_fixed_at_import(groups: GroupMaker) -> None:
    parent, session, pid, _, threads = await facts(groups, engine={"threads": 2})
    assert (parent, session, threads) == (os.getpid(), pid, 2)
    assert groups.pod.fork_servers.pid(EngineKind.PYTHON) is None


async def test_without_a_fork_server_workers_are_spawned(tmp_path: Path) -> None:
    pod = await PodResources.open(4 << 20, tmp_path / "run", PodOptions(use_fork_server=False))
    maker = GroupMaker(pod, tmp_path)
    try:
        assert (await facts(maker))[0] == os.getpid()
        assert not pod.fork_servers.kinds()
    finally:
        await maker.stop()
        await pod.close()


def an_ended_child() -> int:
    return os.posix_spawn("/bin/true", ["true"], {})


def collect(pid: int) -> int:
    return os.waitpid(pid, 0)[0]


async def test_orphans_are_collected_and_others_children_are_left_a_while() -> None:
    child = an_ended_child()
    await eventually(lambda: child in zombie_children())
    reaper = Reaper(lambda pid: False)
    assert child not in reaper.look(), "whoever started it may still wait for it"
    assert child in reaper.look()
    assert child not in zombie_children()


async def test_a_child_that_somebody_waits_for_is_never_collected() -> None:
    child = an_ended_child()
    await eventually(lambda: child in zombie_children())
    reaper = Reaper(lambda pid: pid == child)
    assert not reaper.look() + reaper.look() + reaper.look()
    assert collect(child) == child


async def test_libraries_are_imported_before_the_first_worker_is_asked_for(groups: GroupMaker) -> None:
    engine = groups.member().engine
    groups.pod.prepare(engine)
    prepared = await eventually(lambda: groups.pod.fork_servers.pid(engine.kind))
    parent, *_ = await facts(groups)
    groups.pod.prepare(engine)
    assert groups.pod.fork_servers.pid(engine.kind) == prepared
    assert parent == os.getpid()


async def test_nothing_is_imported_ahead_for_workers_that_will_be_spawned(groups: GroupMaker) -> None:
    groups.pod.prepare(groups.member(engine={"threads": 2}).engine)
    assert groups.pod.fork_servers.kinds() == ()
