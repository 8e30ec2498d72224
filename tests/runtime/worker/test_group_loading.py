"""A model that does not load says why, with a reason and an exit code, and leaves nothing behind."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.worker.models import DOUBLE, GroupMaker, ask, column
from tests.support.waiting import eventually

from podium.errors import WorkerLoadError
from podium.ipc.channel import Handler, Intruder, Payloads
from podium.ipc.protocol import FromWorker
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.workers.process import ChildProcess
from podium_crds.reasons import Reason

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("entrypoint", "complaint"),
    [
        ("nothing:Model", "no module 'nothing'; it has model.py"),
        ("model:Absent", "no attribute 'Absent'"),
        ("model", "expected module:attribute"),
        ("model:NUMBER", "int, expected a class"),
        ("model:Empty", "no method infer, infer_batch or infer_stream"),
        ("json:loads", "no module 'json'"),
        ("numpy:zeros", "no module 'numpy'"),
    ],
)
async def test_a_bad_entrypoint_is_named(groups: GroupMaker, entrypoint: str, complaint: str) -> None:
    source = "NUMBER = 3\nclass Empty: pass\n"
    with pytest.raises(WorkerLoadError, match=complaint) as failed:
        await groups.start(source, engine={"entrypoint": entrypoint})
    assert failed.value.reason is Reason.LOAD_FAILED
    assert failed.value.exit_code == 1


@pytest.mark.parametrize(
    ("body", "complaint", "exit_code"),
    [
        ("raise RuntimeError('no weights here')", "no weights here", 1),
        ("import sys; sys.exit(7)", r"sys.exit\(7\)", 7),
        ("import os; os._exit(9)", "status 9", 9),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV", -11),
    ],
)
async def test_what_goes_wrong_in_load_is_told(groups: GroupMaker, body: str, complaint: str, exit_code: int) -> None:
    source = f"class Model:\n    def load(self, ctx):\n        {body}\n    def infer(self, i):\n        return i\n"
    with pytest.raises(WorkerLoadError, match=complaint) as failed:
        await groups.start(source)
    assert failed.value.exit_code == exit_code


async def test_code_that_does_not_parse_is_told_with_its_line(groups: GroupMaker) -> None:
    with pytest.raises(WorkerLoadError, match="SyntaxError"):
        await groups.start("class Model:\n    def infer(self:\n")


async def test_a_message_is_at_most_a_kibibyte_and_keeps_its_end(groups: GroupMaker) -> None:
    source = (
        "class Model:\n    def load(self, ctx):\n        raise ValueError('x' * 5000 + 'THE END')\n    infer = load\n"
    )
    with pytest.raises(WorkerLoadError, match="THE END") as failed:
        await groups.start(source)
    assert len(str(failed.value)) <= 1024


async def test_a_load_without_end_is_cut_off(groups: GroupMaker) -> None:
    source = "import time\nclass Model:\n    def load(self, ctx):\n        time.sleep(600)\n    infer = load\n"
    with pytest.raises(WorkerLoadError, match="raise loadTimeoutSeconds"):
        await groups.start(source, load_timeout_seconds=1)


async def test_one_of_three_instances_failing_fails_the_load(groups: GroupMaker) -> None:
    source = """
    import os
    from pathlib import Path
    class Model:
        def load(self, ctx):
            try:
                (Path(ctx.parameters["folder"]) / "taken").mkdir()
            except FileExistsError:
                return
            raise RuntimeError("the first one fails")
        def infer(self, inputs):
            return {"y": inputs["x"]}
    """
    with pytest.raises(WorkerLoadError, match="the first one fails"):
        await groups.start(source, instances=3)


async def test_a_cancelled_start_leaves_no_process(groups: GroupMaker) -> None:
    source = "import time\nclass Model:\n    def load(self, ctx):\n        time.sleep(600)\n    infer = load\n"
    task = asyncio.create_task(groups.start(source, instances=2))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_the_model_is_told_its_surroundings_and_finds_its_neighbours(groups: GroupMaker) -> None:
    source = """
    import neighbour
    class Model:
        def load(self, ctx):
            assert ctx.name == "m" and ctx.version == "1" and ctx.device == "cpu"
            assert (ctx.artifact_dir / "neighbour.py").is_file()
            self.factor = ctx.parameters["factor"] * neighbour.FACTOR
        def infer(self, inputs):
            return {"y": inputs["x"] * self.factor}
    """
    artifact = groups.artifact(source, neighbour="FACTOR = 3\n")
    member = groups.member(engine={"parameters": {"factor": 2}})
    group = await WorkerGroup.start(member, artifact, pod=groups.pod)
    groups.groups.append(group)
    np.testing.assert_array_equal(await ask(group, column(1)), column(6))
    assert not list(artifact.rglob("__pycache__")), "the artifact is left as it was"


async def test_a_module_linked_from_outside_the_artifact_is_not_loaded(groups: GroupMaker, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("class Model:\n    def infer(self, i):\n        return i\n")
    artifact = groups.artifact(DOUBLE)
    (artifact / "linked.py").symlink_to(outside)
    with pytest.raises(WorkerLoadError, match="outside the artifact"):
        await WorkerGroup.start(groups.member(engine={"entrypoint": "linked:Model"}), artifact, pod=groups.pod)


async def test_two_groups_of_one_name_do_not_touch_each_others_leases(groups: GroupMaker) -> None:
    first, second = await groups.start(), await groups.start()
    task = asyncio.create_task(ask(second, np.ones((1, 100_000), np.float32)))
    os.kill(first.stats().pids[0], signal.SIGKILL)
    assert (await task == 2).all()
    await eventually(lambda: first.stats().restarts == 1 and first.stats().pids)


async def test_a_worker_that_is_ready_before_its_pid_is_known_is_heard(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, register = groups.pod.launch, groups.pod.broker.register
    heard: list[bytes] = []

    async def slow_to_answer(*arguments: Any) -> ChildProcess:
        process = await launch(*arguments)
        await eventually(lambda: len(heard) >= 2, what="Hello and Ready to arrive")
        return process

    def counted(peer: bytes, handler: Handler, intruder: Intruder) -> None:
        def counting(sender: bytes, message: FromWorker, payloads: Payloads) -> None:
            handler(sender, message, payloads)
            heard.append(sender)

        register(peer, counting, intruder)

    monkeypatch.setattr(groups.pod, "launch", slow_to_answer)
    monkeypatch.setattr(groups.pod.broker, "register", counted)
    group = await groups.start(DOUBLE)
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))


async def test_a_gpu_that_the_pod_does_not_have_is_a_reason(groups: GroupMaker) -> None:
    with pytest.raises(WorkerLoadError, match="no GPU") as failed:
        await groups.start(engine={"device": "Cuda"})
    assert failed.value.reason is Reason.INSUFFICIENT_GPU


async def test_a_system_without_room_for_a_process_is_a_failed_load(
    groups: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptors() -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("podium.serving.workers.supervisor.create_journal", no_descriptors)
    with pytest.raises(WorkerLoadError, match="Too many open files"):
        await groups.start()
