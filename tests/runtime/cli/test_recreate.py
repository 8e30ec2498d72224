"""`podium serve -f` where a gap is asked for: the old version ends before the new one is loaded, and all is said."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.runtime.serving.processes import Podium, cgroup, podium, until

RECREATE = "{strategy: Recreate, allowRecreate: true}"
YAML = """
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: scale}}
spec:
  version: "{version}"
  source: {{uri: "file:./code{version}"}}
  engine: Python
  python: {{entrypoint: "model:Scale", parameters: {{factor: {version}, folder: "{folder}"}}}}
  inputs: [{{name: x, dtype: FP32, shape: [-1]}}]
  outputs: [{{name: "y", dtype: FP32, shape: [-1]}}]
  timeoutSeconds: {timeout}
  rollout: {rollout}
"""
CODE = """
import os
import time
import numpy as np
from podium import Model

class Scale(Model):
    def load(self, ctx):
        self.factor = np.float32(ctx.parameters["factor"])
        self.folder = ctx.parameters["folder"]
        beside = [name for name in os.listdir(self.folder) if name.startswith("loaded-")]
        open(f"{self.folder}/beside-{self.factor:g}", "w").write(",".join(beside))
        open(f"{self.folder}/loaded-{self.factor:g}", "w").close()

    def infer(self, inputs):
        while inputs["x"][0] == 7 and not os.path.exists(self.folder + "/go"):
            time.sleep(0.01)
        return {"y": np.asarray(inputs["x"] * self.factor)}

    def unload(self):
        os.unlink(f"{self.folder}/loaded-{self.factor:g}")
"""


class Case:
    """A served file, and its clients."""

    def __init__(self, process: Podium, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.url = process.says("listening on").split()[2]

    def ask(self, value: float) -> httpx.Response:
        body = {"inputs": {"x": [value]}}
        return httpx.post(f"{self.url}/v1/models/scale:predict", json=body, timeout=60)

    def answers(self, factor: float) -> bool:
        answer = self.ask(1)
        return answer.status_code == 200 and answer.json()["outputs"]["y"]["data"] == [factor]

    def model(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/v1/models/scale", timeout=30).json())


def write(folder: Path, version: int, *, timeout: int = 60, rollout: str = RECREATE, weights_mib: int = 0) -> Path:
    code = folder / f"code{version}"
    code.mkdir(exist_ok=True)
    (code / "model.py").write_text(CODE)
    if weights_mib:
        with (code / "model.safetensors").open("wb") as weights:
            weights.truncate(weights_mib << 20)  # a hole: it counts, and takes no room on the disk
    file = folder / "model.yaml"
    file.write_text(YAML.format(version=version, folder=folder, timeout=timeout, rollout=rollout))
    return file


@contextmanager
def serving(folder: Path) -> Iterator[Case]:
    file = write(folder, 2)
    with podium("serve", "-f", str(file), "--port", "0", PODIUM_STATE_DIR=str(folder / "state")) as process:
        case = Case(process, folder)
        process.says("now serving revision")
        yield case


def test_the_old_version_gives_its_last_answer_and_its_place_before_the_new_one_loads(tmp_path: Path) -> None:
    with serving(tmp_path) as case:
        begun: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: begun.append(case.ask(7)))
        asking.start()
        until(lambda: case.model()["revisions"] and in_flight(case) == 1, "the request in the model's hands")
        mark = len(case.process.lines)
        write(tmp_path, 3)
        case.process.says("strategy Recreate: version 2 ends first, and scale answers 503 until", after=mark)
        until(lambda: case.ask(1).status_code == 503, "the gap")
        refused = case.ask(1)
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "not_ready"
        assert httpx.get(case.url + "/health/ready").status_code == 503
        assert not (tmp_path / "beside-3").exists(), "it is not loaded while the old one still answers"
        (tmp_path / "go").touch()
        asking.join(60)
        assert begun[0].json()["outputs"]["y"]["data"] == [14.0]
        until(lambda: case.answers(3), "version 3")
        assert (tmp_path / "beside-3").read_text() == ""
        assert [row["version"] for row in case.model()["revisions"]] == ["3"]


def test_a_change_of_settings_makes_no_gap(tmp_path: Path) -> None:
    with serving(tmp_path) as case:
        before, mark = case.model()["revision"], len(case.process.lines)
        write(tmp_path, 2, timeout=61)
        until(lambda: case.model()["revision"] not in (before, None), "the settings in force")
        assert case.answers(2)
        assert not any("ends first" in line for line in case.process.lines[mark:])


def test_changing_the_mind_in_the_gap_brings_the_old_version_back(tmp_path: Path) -> None:
    with serving(tmp_path) as case:
        asking = threading.Thread(target=case.ask, args=(7,))
        asking.start()
        until(lambda: in_flight(case) == 1, "the request in the model's hands")
        mark = len(case.process.lines)
        write(tmp_path, 3)
        case.process.says("version 2 ends first", after=mark)  # one asked before would wait behind the first
        until(lambda: case.ask(1).status_code == 503, "the gap")
        mark = len(case.process.lines)
        write(tmp_path, 2)
        case.process.says("files changed", after=mark)
        (tmp_path / "go").touch()
        asking.join(60)
        until(lambda: case.answers(2), "version 2 again")
        until(lambda: [row["version"] for row in case.model()["revisions"]] == ["2"], "nothing beside it")


def test_a_version_that_does_not_load_is_tried_until_the_file_says_otherwise(tmp_path: Path) -> None:
    with serving(tmp_path) as case:
        (tmp_path / "code3").mkdir()
        (tmp_path / "code3" / "model.py").write_text("raise RuntimeError('no weights')")
        (tmp_path / "model.yaml").write_text(YAML.format(version=3, folder=tmp_path, timeout=60, rollout=RECREATE))
        case.process.says("failed: LoadFailed")
        assert case.ask(1).status_code == 503
        write(tmp_path, 4)
        until(lambda: case.answers(4), "version 4")


@pytest.mark.parametrize("allowed", [True, False])
def test_what_has_no_room_beside_the_old_version_takes_its_place_only_where_that_is_allowed(
    tmp_path: Path, allowed: bool
) -> None:
    rollout = f"{{allowRecreate: {str(allowed).lower()}}}"
    write(tmp_path, 2, rollout=rollout, weights_mib=250)
    arguments = ["serve", "-f", str(tmp_path / "model.yaml"), "--port", "0"]
    with cgroup(640 << 20) as prefix:
        process = Podium(arguments, {"PODIUM_STATE_DIR": str(tmp_path / "state")}, prefix)
        try:
            case = Case(process, tmp_path)
            process.says("now serving revision")
            write(tmp_path, 3, rollout=rollout, weights_mib=251)
            process.says("failed: InsufficientMemoryForOverlap: scale does not fit")
            if allowed:
                process.says("there is no room for both: version 2 ends first, and scale answers 503 until")
                until(lambda: case.answers(3), "version 3")
                assert (tmp_path / "beside-3").read_text() == ""
            else:
                process.says("still serving revision")
                process.says("failed: InsufficientMemoryForOverlap", after=len(process.lines))  # tried again
                assert case.answers(2)
        finally:
            process.stop()


def in_flight(case: Case) -> int:
    stats = httpx.get(f"{case.url}/v1/models/scale/stats", timeout=30).json()
    return sum(row["in_flight"] for row in stats["revisions"])
