"""What a model has started does not outlive its front end, outside a container too, however the front end goes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.runtime.serving.families import family, parents
from tests.runtime.serving.processes import Podium, podium, until

STARTS = {
    "plain": "subprocess.Popen(SLEEP)",
    "daemon": "subprocess.Popen(SLEEP, start_new_session=True)",
    "cleared": "subprocess.Popen(SLEEP, env={})",
    "forked": "forked()",
    "grandchild": "subprocess.Popen([sys.executable, '-c', f'import subprocess; subprocess.Popen({SLEEP!r}).wait()'])",
}
YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {{name: code}}
data:
  models.py: |
    import os
    import subprocess
    import sys
    import time
    from podium import Model

    SLEEP = ["sleep", "987654"]

    class Child:
        def __init__(self, pid):
            self.pid = pid

    def forked():
        pid = os.fork()
        if pid == 0:
            time.sleep(987654)
        return Child(pid)

    class Starts(Model):
        def load(self, ctx):
            self.child = {start}
            with open("{pid_file}.new", "w") as file:
                file.write(str(self.child.pid))
            os.rename("{pid_file}.new", "{pid_file}")

        def infer(self, inputs):
            return dict(inputs)
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: starts}}
spec:
  source: {{uri: "configmap://code"}}
  engine: Python
  python: {{entrypoint: "models:Starts"}}
"""


def lives(pid: int) -> bool:
    return pid in parents()


def guard_of(front_end: int) -> int:
    """Pid of its guard."""
    for pid in family(front_end):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(part.endswith(b"worker/guard.py") for part in command):
            return pid
    raise AssertionError(f"{front_end} has no guard")


@contextmanager
def started(folder: Path, start: str) -> Iterator[tuple[Podium, int]]:
    """A server whose model has started a process, and that process's pid."""
    pid_file = folder / "pid"
    (folder / "m.yaml").write_text(YAML.format(start=STARTS[start], pid_file=pid_file))
    with podium("serve", "-f", str(folder / "m.yaml"), "--port", "0", PODIUM_STATE_DIR=str(folder / "s")) as process:
        process.says("now serving revision")
        yield process, int(pid_file.read_text())


@pytest.mark.parametrize("start", STARTS)
def test_nothing_is_left_of_a_front_end_that_is_killed(tmp_path: Path, start: str) -> None:
    with started(tmp_path, start) as (process, child):
        everyone = family(process.pid)
        assert child in everyone
        process.signal(signal.SIGKILL)
        process.ends()
        until(lambda: not everyone & parents().keys(), f"the end of {everyone}")


def test_a_guard_that_was_stopped_does_its_work_all_the_same(tmp_path: Path) -> None:
    with started(tmp_path, "daemon") as (process, child):
        everyone = family(process.pid)
        guard = guard_of(process.pid)
        for pid in everyone - {process.pid}:
            os.kill(pid, signal.SIGSTOP)
        process.signal(signal.SIGKILL)
        process.ends()
        until(lambda: not everyone & parents().keys(), f"the end of {everyone}, guard {guard}, child {child}")


def test_an_ordinary_end_leaves_nobody_either(tmp_path: Path) -> None:
    with started(tmp_path, "daemon") as (process, _):
        everyone = family(process.pid)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
        until(lambda: not everyone & parents().keys(), f"the end of {everyone}")


def test_the_guard_ends_nobody_elses_processes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with started(tmp_path / "a", "daemon") as (first, _), started(tmp_path / "b", "daemon") as (second, other):
        guard = guard_of(first.pid)
        first.signal(signal.SIGKILL)
        until(lambda: not lives(guard), "the guard has done its work")
        assert lives(other)
        assert lives(second.pid)


def test_a_guard_that_is_killed_takes_nobody_with_it(tmp_path: Path) -> None:
    with started(tmp_path, "plain") as (process, child):
        guard = guard_of(process.pid)
        os.kill(guard, signal.SIGKILL)
        until(lambda: not lives(guard), "the guard is gone")
        assert lives(child)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
        until(lambda: not lives(child), "the model's process is ended in good order all the same")
