"""`podium serve` begins its fork servers before it imports the front end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.serving.processes import podium

from podium.cli.early import FORKED, NO_TELEMETRY, THREAD_VARIABLES, likely_kinds
from podium.serving.workers.pod import FORKED_KINDS
from podium.serving.workers.process import thread_environment
from podium.telemetry.processes import children_of
from podium.worker.forkserver import LIBRARIES


def test_engines_are_found_in_files_and_options_in_any_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("spec:\n  engine: Torch\n  torch: {entrypoint: a:b}\n")
    two.write_text('{"spec": {"engine": "Python"}}')
    assert likely_kinds(["-f", str(one)], {}) == ("Torch",)
    assert likely_kinds(["--port", "0", "--file", str(two), "-f", str(one)], {}) == ("Torch", "Python")


@pytest.mark.parametrize("text", ["", "engine: VLLM\n", "not yaml: [", "engineer: Torch", "kind: InferenceModel"])
def test_nothing_is_guessed_from_other_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.yaml").write_text(text)
    assert likely_kinds(["-f", str(tmp_path / "file.yaml")], {}) == ()


def test_every_engine_that_is_forked_can_be_begun_early() -> None:
    assert set(FORKED) == {kind.value for kind in FORKED_KINDS} == set(LIBRARIES)


def test_what_is_set_for_libraries_is_what_spawned_workers_get() -> None:
    early_ones = {**dict.fromkeys(THREAD_VARIABLES, "1"), **NO_TELEMETRY}
    assert early_ones.items() <= thread_environment(1).items()


def test_a_file_that_is_not_there_is_no_matter_here() -> None:
    assert likely_kinds(["-f", "/nowhere/x.yaml", "-f"], {}) == ()


def test_a_pod_looks_into_what_it_will_come_up_with(tmp_path: Path) -> None:
    (tmp_path / "assignment.json").write_text('{"revisions":[{"members":[{"engine":{"kind":"Torch"}}]}]}')
    environment = {"PODIUM_ASSIGNMENT_DIR": "/nowhere", "PODIUM_STATE_DIR": str(tmp_path)}
    assert likely_kinds(["--pod"], environment) == ("Torch",)


TALKATIVE = """
import os
import sys
from podium import Model

class Talkative(Model):
    def load(self, ctx):
        print("stdin is", os.readlink("/proc/self/fd/0"), "session is mine:", os.getsid(0) == os.getpid())
        print("path begins with the artifact:", sys.path[0] == str(ctx.artifact_dir.resolve()))
        print("next is no folder of scripts:", not (sys.path[1] or ".").endswith("bin"))

    def infer(self, inputs):
        print("asked once", end="", flush=False)
        return {"y": inputs["x"]}
"""
RESOURCES = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: talk}}
data:
  talk.py: |
    {TALKATIVE.strip().replace(chr(10), chr(10) + "    ")}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: talk}}
spec:
  version: "1"
  engine: Python
  python: {{entrypoint: "talk:Talkative"}}
  source: {{uri: "configmap://talk"}}
  inputs: [{{name: x, dtype: FP32, shape: [-1, 1]}}]
  outputs: [{{name: y, dtype: FP32, shape: [-1, 1]}}]
"""


def test_workers_come_from_a_fork_of_the_front_end_and_share_nothing_but_memory(tmp_path: Path) -> None:
    (tmp_path / "talk.yaml").write_text(RESOURCES)
    state = str(tmp_path / "state")
    with podium("serve", "-f", str(tmp_path / "talk.yaml"), "--port", "0", PODIUM_STATE_DIR=state) as process:
        process.says("stdin is /dev/null session is mine: True")
        process.says("path begins with the artifact: True")
        process.says("next is no folder of scripts: True")
        process.says("now serving revision")
        commands = [Path(f"/proc/{seen.pid}/cmdline").read_bytes() for seen in children_of(process.pid)]
        assert len([command for command in commands if b"worker/guard.py" not in command]) == 2
        assert not [command for command in commands if b"podium.worker" in command], "nothing was spawned"
        process.says("asked once")  # warm-up; it comes without its line's end, and without being flushed


def test_a_second_engine_kind_gets_a_fork_server_of_its_own(tmp_path: Path) -> None:
    """The process that was begun early is of one kind; another kind is spawned when it is needed."""
    begun = early_children(tmp_path, "engine: Torch\n", "engine: Python\n")
    assert begun == ["Torch", "Python"]
    assert early_children(tmp_path, "nothing: here\n") == [None]


def early_children(folder: Path, *texts: str) -> list[str | None]:
    """Kinds of what `begin` forks, in a process without threads."""
    options = []
    for number, text in enumerate(texts):
        (folder / f"{number}.yaml").write_text(text)
        options += ["-f", str(folder / f"{number}.yaml")]
    script = (
        "import json, sys; from podium.cli.early import begin; kinds = [s.kind for s in begin(sys.argv[1:], {})]; "
        "print(json.dumps(kinds))"
    )
    done = subprocess.run([sys.executable, "-c", script, *options], capture_output=True, text=True, check=True)
    kinds: list[str | None] = json.loads(done.stdout)
    return kinds


@pytest.mark.parametrize("kind", sorted(LIBRARIES))
def test_the_rehearsal_starts_no_thread_and_covers_what_a_worker_imports_first(kind: str) -> None:
    script = f"""
import importlib, os, sys
from podium.worker.forkserver import LIBRARIES, rehearse
for library in LIBRARIES[{kind!r}]:
    importlib.import_module(library)
rehearse({kind!r})
assert len(os.listdir("/proc/self/task")) == 1
assert "numpy.random" in sys.modules
"""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
