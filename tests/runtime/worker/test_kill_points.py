"""SIGKILL for a worker and the fork server at every point of the protocol: each request ends once, nothing is left."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.worker.models import GroupMaker, ask, column
from tests.runtime.worker.stops import STOPS, begun, stop_at, stopped
from tests.support.waiting import eventually

from podium.errors import WorkerDied, WorkerLoadError
from podium.serving.dispatch.group import GroupState, WorkerGroup
from podium.serving.workers.pod import PodResources
from podium_crds.assignment import EngineKind

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDTH = 30_000
AFTER_BEGIN = ("infer", "before Need", "after Need", "half written", "before Reply", "after Reply")


def wide(number: int) -> NDArray[np.float32]:
    return np.full((1, WIDTH), number, np.float32)


async def end(groups: GroupMaker) -> None:
    """SIGKILL for the process that has stopped."""
    os.kill(await eventually(lambda: stopped(groups.folder)), signal.SIGKILL)


def right(number: int, answer: object) -> bool:
    return isinstance(answer, np.ndarray) and bool((answer == 2 * number).all()) and answer.shape == (1, WIDTH)


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("point", AFTER_BEGIN)
async def test_a_worker_killed_with_a_batch_in_hand(groups: GroupMaker, point: str, idempotent: bool) -> None:
    group = await groups.start(STOPS, idempotent=idempotent, batching={"max_batch_size": 1})
    stop_at(groups.folder, point)
    tasks = [asyncio.create_task(ask(group, wide(number))) for number in range(1, 6)]
    await end(groups)
    results = dict(zip(range(1, 6), await asyncio.gather(*tasks, return_exceptions=True), strict=True))
    for number, result in results.items():
        assert right(number, result) or (number == 1 and isinstance(result, WorkerDied) and not idempotent), result
    runs = Counter(begun(groups.folder))
    assert runs[1] <= 1 + idempotent
    assert all(runs[number] == 1 for number in range(2, 6)), "what had not begun runs once, in the next worker"


async def test_a_worker_killed_between_dispatch_and_begin(groups: GroupMaker) -> None:
    group = await groups.start(STOPS, batching={"max_batch_size": 1})
    (first,) = group.stats().pids
    os.kill(first, signal.SIGSTOP)
    tasks = [asyncio.create_task(ask(group, wide(number))) for number in range(1, 4)]
    await eventually(lambda: group.stats().in_flight)
    os.kill(first, signal.SIGKILL)
    for number, task in enumerate(tasks, 1):
        assert right(number, await task)
    assert sorted(begun(groups.folder)) == [1, 2, 3]


async def test_a_worker_killed_while_it_loads_for_the_first_time(groups: GroupMaker) -> None:
    stop_at(groups.folder, "load")
    starting = asyncio.create_task(groups.start(STOPS))
    await end(groups)
    with pytest.raises(WorkerLoadError, match="SIGKILL"):
        await starting


async def test_a_worker_killed_while_it_loads_again_keeps_requests_waiting_for_the_next(groups: GroupMaker) -> None:
    group = await groups.start(STOPS)
    stop_at(groups.folder, "load")
    os.kill(group.stats().pids[0], signal.SIGKILL)
    waiting = asyncio.create_task(ask(group, wide(1)))
    await end(groups)
    assert right(1, await waiting)
    assert begun(groups.folder) == [1]


@pytest.mark.parametrize("point", ["before Ready", "after Ready"])
async def test_a_worker_killed_around_its_ready(groups: GroupMaker, point: str) -> None:
    group = await groups.start(STOPS)
    stop_at(groups.folder, point)
    os.kill(group.stats().pids[0], signal.SIGKILL)
    await end(groups)
    assert right(1, await ask(group, wide(1)))


async def test_an_idle_worker_killed(groups: GroupMaker) -> None:
    group = await groups.start(STOPS)
    assert right(1, await ask(group, wide(1)))
    os.kill(group.stats().pids[0], signal.SIGKILL)
    assert right(2, await ask(group, wide(2)))
    assert begun(groups.folder) == [1, 2]


async def test_a_worker_killed_while_it_unloads(groups: GroupMaker) -> None:
    group = await groups.start(STOPS)
    stop_at(groups.folder, "unload")
    stopping = asyncio.create_task(group.stop(20))
    await end(groups)
    await stopping
    assert group.stats().state is GroupState.STOPPED


async def test_a_stopped_worker_that_goes_on_has_lost_no_message(groups: GroupMaker) -> None:
    group = await groups.start(STOPS, batching={"max_batch_size": 1, "max_queue_size": 100})
    (pid,) = group.stats().pids
    for first in (1, 21, 41):
        tasks = [asyncio.create_task(ask(group, wide(number))) for number in range(first, first + 20)]
        await eventually(lambda already=first: len(begun(groups.folder)) > already)
        os.kill(pid, signal.SIGSTOP)
        more = [asyncio.create_task(ask(group, column(number))) for number in range(first + 100, first + 120)]
        for task in more[::4]:
            task.cancel()
        await eventually(lambda: group.stats().queue_depth)
        os.kill(pid, signal.SIGCONT)
        for number, task in enumerate(tasks, first):
            assert right(number, await task)
        await asyncio.gather(*more, return_exceptions=True)
        assert [task.cancelled() for task in more] == [index % 4 == 0 for index in range(20)]
    assert max(Counter(begun(groups.folder)).values()) == 1
    assert group.stats().restarts == 0


@pytest.fixture
async def own_groups(tmp_path: Path) -> AsyncIterator[GroupMaker]:
    """A pod of its own, whose fork server may be killed."""
    pod = await PodResources.open(8 << 20, tmp_path / "run")
    maker = GroupMaker(pod, tmp_path)
    yield maker
    await maker.stop()
    assert pod.arena.stats().slots == 0
    await pod.close()


async def answers(group: WorkerGroup) -> None:
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))


@pytest.mark.asyncio(loop_scope="function")
async def test_a_fork_server_killed_during_its_imports(own_groups: GroupMaker) -> None:
    pod = own_groups.pod
    pod.prepare(own_groups.member().engine)
    server = await eventually(lambda: pod.fork_servers.pid(EngineKind.PYTHON))
    starting = asyncio.create_task(own_groups.start())
    os.kill(server, signal.SIGKILL)
    await answers(await starting)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_fork_server_killed_with_a_request_before_it(own_groups: GroupMaker) -> None:
    first = await own_groups.start()
    server = own_groups.pod.fork_servers.pid(EngineKind.PYTHON)
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    starting = asyncio.create_task(own_groups.start())
    await eventually(lambda: len(own_groups.pod.broker._handlers) == 2, what="a second worker is asked for")
    os.kill(server, signal.SIGKILL)
    await answers(await starting)
    await answers(first)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_fork_server_killed_while_its_worker_loads_and_while_it_works(own_groups: GroupMaker) -> None:
    stop_at(own_groups.folder, "load")
    loading = asyncio.create_task(own_groups.start(STOPS))
    worker = await eventually(lambda: stopped(own_groups.folder))
    server = own_groups.pod.fork_servers.pid(EngineKind.PYTHON)
    assert server is not None
    os.kill(server, signal.SIGKILL)
    await eventually(lambda: own_groups.pod.fork_servers.pid(EngineKind.PYTHON) != server)
    os.kill(worker, 0)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerLoadError):
        await loading
    await answers(await own_groups.start())
