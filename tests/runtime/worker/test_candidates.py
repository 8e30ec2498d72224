"""A candidate loads behind what serves, with one intra-op thread, and is given both back at its promotion."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.worker.models import GroupMaker, ask, column
from tests.support.waiting import eventually

from podium.serving.dispatch.group import WorkerGroup
from podium.serving.workers import priority
from podium.serving.workers.priority import Priority
from podium.serving.workers.supervisor import Supervisor
from podium.serving.workers.turns import LoadTurns
from podium_crds.assignment import EngineKind

pytestmark = pytest.mark.asyncio(loop_scope="module")

TORCH = """
    import torch

    class Threads(torch.nn.Module):
        def __init__(self, at_load):
            super().__init__()
            self.at_load = at_load
        def forward(self, x):
            return {"y": torch.tensor([[self.at_load, torch.get_num_threads()]])}

    def build(context):
        return Threads(torch.get_num_threads())
"""


MEETING = """
    import os, time
    from pathlib import Path

    class Model:
        # While it loads, it looks for others that load too, and notes how many it saw at most.
        def load(self, ctx):
            here = Path(ctx.parameters["folder"])
            mine = here / f"loads-{os.getpid()}"
            mine.touch()
            most, until = 1, time.monotonic() + ctx.parameters["seconds"]
            while time.monotonic() < until and not (here / "go").exists():
                most = max(most, len(list(here.glob("loads-*"))))
                time.sleep(0.005)
            mine.unlink()
            (here / f"saw-{os.getpid()}").write_text(str(most))

        def infer(self, inputs):
            return {"y": inputs["x"]}
"""


def nice_above(thread: int) -> int:
    """Its nice value above that of this process."""
    return os.getpriority(os.PRIO_PROCESS, thread) - os.getpriority(os.PRIO_PROCESS, 0)


def session_nice(pid: int | str) -> int | None:
    """Of the kernel's group for its session. None where there is none: a session as old as the kernel has no group."""
    with suppress(FileNotFoundError):
        if found := Path(f"/proc/{pid}/autogroup").read_text():
            return int(found.rpartition("nice ")[2])
    return None


def is_held_back(pid: int) -> bool:
    """Every thread of the process runs behind workers that serve."""
    threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    return all(
        nice_above(thread) > priority.SERVING or os.sched_getscheduler(thread) == os.SCHED_BATCH for thread in threads
    )


async def candidate(groups: GroupMaker, source: str = "", **changes: object) -> WorkerGroup:
    source = source or "class Model:\n    def infer(self, inputs):\n        return {'y': inputs['x'] * 2}\n"
    artifact = groups.artifact(source)
    group = await WorkerGroup.start(groups.member(**changes), artifact, pod=groups.pod, to_serve=asyncio.Event())
    groups.groups.append(group)
    return group


async def test_it_is_held_back_until_it_is_promoted_and_its_successors_are_not(groups: GroupMaker) -> None:
    group = await candidate(groups)
    assert is_held_back(group.stats().pids[0])
    group.promote()
    assert not is_held_back(group.stats().pids[0])
    os.kill(group.stats().pids[0], signal.SIGKILL)
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))
    assert not is_held_back(group.stats().pids[0])


async def test_a_candidate_that_restarts_is_held_back_again(groups: GroupMaker) -> None:
    group = await candidate(groups)
    os.kill(group.stats().pids[0], signal.SIGKILL)
    await eventually(lambda: group.stats().restarts == 1 and group.stats().pids)
    assert is_held_back(group.stats().pids[0])


async def test_what_is_to_serve_is_never_held_back_but_runs_behind_the_front_end(groups: GroupMaker) -> None:
    group = await groups.start()
    [pid] = group.stats().pids
    assert not is_held_back(pid)
    assert nice_above(pid) == priority.SERVING


async def test_the_session_of_a_worker_stands_where_the_worker_does(groups: GroupMaker) -> None:
    """Outside containers the kernel shares processors among sessions first."""
    own = session_nice("self")
    group = await candidate(groups)
    [pid] = group.stats().pids
    if session_nice(pid) is None:
        pytest.skip("this kernel has no autogroups")
    await eventually(lambda: session_nice(pid) == (own or 0) + priority.LOADING)
    group.promote()
    await eventually(lambda: session_nice(pid) == (own or 0) + priority.SERVING)
    assert session_nice("self") == own


async def test_torch_gets_its_threads_at_the_promotion(groups: GroupMaker) -> None:
    engine = {"kind": EngineKind.TORCH, "entrypoint": "model:build", "threads": 3}
    group = await candidate(groups, TORCH, engine=engine)
    assert (await ask(group, column(1))).tolist() == [[1, 1]]
    group.promote()
    assert (await ask(group, column(1))).tolist() == [[1, 3]]


async def test_one_that_is_promoted_while_it_loads_is_let_go_when_it_is_ready(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Supervisor._loaded

    async def promoted_meanwhile(self: Supervisor, life: object) -> None:
        self.promote()
        await loaded(self, life)  # type: ignore[arg-type]

    monkeypatch.setattr(Supervisor, "_loaded", promoted_meanwhile)
    engine = {"kind": EngineKind.TORCH, "entrypoint": "model:build", "threads": 3}
    group = await candidate(groups, TORCH, engine=engine)
    assert not is_held_back(group.stats().pids[0])
    assert (await ask(group, column(1))).tolist() == [[1, 3]]


@pytest.mark.parametrize("may_lower", [True, False])
async def test_both_ways_can_be_taken_back(monkeypatch: pytest.MonkeyPatch, may_lower: bool) -> None:
    if may_lower and not priority.can_lower_nice():
        pytest.skip("this process may not lower a nice value")
    monkeypatch.setattr(priority, "can_lower_nice", lambda: may_lower)
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setsid=True)  # noqa: ASYNC221 - returns at once
    place = Priority(pid)
    try:
        place.hold_back()
        assert is_held_back(pid)
        place.let_go()
        assert not is_held_back(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it is dead
    place.hold_back()
    place.forget()


async def test_a_candidate_s_instances_load_in_turns_on_half_of_the_processors(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups.pod, "load_turns", LoadTurns(4))
    await candidate(groups, MEETING, engine={"parameters": {"seconds": 0.2}}, instances=5)
    assert max(int(seen.read_text()) for seen in groups.folder.glob("saw-*")) == 2


async def test_those_that_wait_for_their_turn_load_at_once_when_it_is_to_serve(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups.pod, "load_turns", LoadTurns(2))
    to_serve = asyncio.Event()
    member = groups.member(engine={"parameters": {"seconds": 60}}, instances=3)
    artifact = groups.artifact(MEETING)
    starting = asyncio.create_task(WorkerGroup.start(member, artifact, pod=groups.pod, to_serve=to_serve))
    await eventually(lambda: len(list(groups.folder.glob("loads-*"))) == 1)
    to_serve.set()
    await eventually(lambda: len(list(groups.folder.glob("loads-*"))) == 3)
    groups.go()
    groups.groups.append(await starting)


async def test_one_that_gives_up_while_it_waits_takes_no_turn_with_it() -> None:
    turns, never = LoadTurns(1), asyncio.Event()
    async with turns.taken(never):
        waiting = asyncio.create_task(take(turns, never))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
    async with asyncio.timeout(10):
        await take(turns, never)
        await take(turns, never)


async def take(turns: LoadTurns, urgent: asyncio.Event) -> None:
    async with turns.taken(urgent):
        pass
