"""`podium serve -f`: the same resources without a cluster, swapped when the file changes."""

import asyncio
import json
import re
import signal
import subprocess
from pathlib import Path

import httpx
from e2e.probers.ledger import Entry, Ledger
from e2e.probers.load import NUMBER, Load, Sender
from tests.runtime.serving.processes import PODIUM, Podium, podium, until
from tests.support.alive import alive

YAML = """
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: scale}}
spec:
  version: "{version}"
  source: {{uri: "file:./code"}}
  engine: Python
  python: {{entrypoint: "model:{entrypoint}", parameters: {{factor: {version}}}}}
  inputs: [{{name: x, dtype: FP32, shape: [-1]}}]
  outputs: [{{name: "y", dtype: FP32, shape: [-1]}}]
"""
CODE = """
import numpy as np
from podium import Model

class Scale(Model):
    def load(self, ctx):
        self.factor = np.float32(ctx.parameters["factor"])

    def infer(self, inputs):
        return {"y": np.asarray(inputs["x"] * self.factor)}
"""


def write(folder: Path, version: int, entrypoint: str = "Scale") -> Path:
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "model.py").write_text(CODE)
    file = folder / "model.yaml"
    file.write_text(YAML.format(version=version, entrypoint=entrypoint))
    return file


def serve(file: Path, folder: Path) -> "Podium":
    return podium("serve", "-f", str(file), "--port", "0", PODIUM_STATE_DIR=str(folder / "state"))  # type: ignore[return-value]


def address(process: Podium) -> str:
    return process.says("listening on").split()[2]


async def test_editing_the_file_swaps_without_a_failed_request(tmp_path: Path) -> None:
    file = write(tmp_path, 2)
    with serve(file, tmp_path) as process:  # type: ignore[attr-defined]
        url = address(process)
        process.says("now serving revision")
        body = json.dumps({"inputs": {"x": [NUMBER]}}).replace(f'"{NUMBER}"', NUMBER)
        load = Load("127.0.0.1", int(url.rpartition(":")[2]), "/v1/models/scale:predict", body, rate_per_s=60)
        entries: list[Entry] = []
        sender = Sender(load, entries.append)
        task = asyncio.create_task(sender.run())
        for version in (3, 2):
            mark = len(process.lines)
            write(tmp_path, version)
            await asyncio.to_thread(process.says, f"(version {version})", after=mark)
            await asyncio.to_thread(process.says, "now serving revision", after=mark)
            seen = len(entries)
            await asyncio.to_thread(until, lambda seen=seen: len(entries) > seen + 20, "answers after the swap")
        sender.stop()
        ledger = Ledger(entries, await task)
    scales = {name: float(body_version(entries, name)) for name in ledger.by_revision()}
    assert sorted(scales.values()) == [2.0, 3.0]
    assert (ledger.lost, ledger.failed) == (0, [])
    assert not ledger.mismatched(lambda text: float(json.loads(text)["outputs"]["y"]["data"][0]), scales)


def body_version(entries: list[Entry], revision: str) -> str:
    return str(json.loads(next(e.body for e in entries if e.revision == revision))["version"])


def test_a_bad_edit_says_why_and_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, 2)
    with serve(file, tmp_path) as process:  # type: ignore[attr-defined]
        url = address(process)
        process.says("now serving revision")
        file.write_text(file.read_text().replace("shape: [-1]", "shape: [x]"))
        process.says("error: InferenceModel scale: spec.inputs[0].shape")
        process.says("still serving as before")
        write(tmp_path, 4, entrypoint="Missing")
        assert "LoadFailed" in process.says("failed:")
        process.says("still serving revision")
        answer = httpx.post(url + "/v1/models/scale:predict", json={"inputs": {"x": [1.0]}})
        assert answer.json()["outputs"]["y"]["data"] == [2.0]
        write(tmp_path, 5)
        process.says("(version 5) is ready")


def test_call_prints_the_answer_and_errors_end_with_status_1(tmp_path: Path) -> None:
    file = write(tmp_path, 2)
    with serve(file, tmp_path) as process:  # type: ignore[attr-defined]
        url = address(process)
        process.says("now serving revision")

        def call(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [PODIUM, "call", *arguments, "--url", url], capture_output=True, text=True, check=False
            )

        done = call("scale", "--input", "x=[1, 2.5]")
        assert json.loads(done.stdout)["y"]["data"] == [2.0, 5.0]
        refused = call("scale", "--input", 'x=["a"]')
        assert (refused.returncode, "numbers only" in refused.stderr) == (1, True)
        assert call("scale", "--input", "x").returncode == 2


def test_ctrl_c_ends_with_status_0_and_no_process_left(tmp_path: Path) -> None:
    file = write(tmp_path, 2)
    with serve(file, tmp_path) as process:  # type: ignore[attr-defined]
        process.says("now serving revision")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.signal(signal.SIGINT)
        assert process.ends() == 0
        assert children
        until(lambda: not [pid for pid in children if alive(int(pid))], "no worker is left")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PODIUM, *arguments], capture_output=True, text=True, check=False)


def test_validate_prints_the_revision_or_every_problem(tmp_path: Path) -> None:
    file = write(tmp_path, 2)
    good = run("validate", "-f", str(file))
    assert re.match(r"ok: InferenceModel scale version 2 → revision scale-[0-9a-f]{10}\n", good.stdout)
    file.write_text(file.read_text().replace("engine: Python", "engine: Pyton"))
    bad = run("validate", "-f", str(file))
    assert (bad.returncode, "spec.engine" in bad.stderr) == (1, True)


def test_digest_of_a_folder_does_not_depend_on_its_name_or_times(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "b").write_text("b")
        (tmp_path / name / "a").write_text("a")
    first, second = run("digest", str(tmp_path / "one")), run("digest", str(tmp_path / "two"))
    assert first.stdout == second.stdout
    assert re.match(r"sha256:[0-9a-f]{64}\n", first.stdout)


def test_serve_wants_files_or_pod_mode() -> None:
    assert run("serve").returncode == 2
    assert run("version").stdout.strip()


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, 2)
    with podium("serve", "-f", str(file), "--port", "0", PODIUM_ARENA_BITES="1") as process:
        assert process.ends() == 2
        assert "PODIUM_ARENA_BITES" in process.tail()


def test_keys_that_a_resource_asks_for_and_nobody_gave_are_warned_of(tmp_path: Path) -> None:
    file = write(tmp_path, 2)
    file.write_text(file.read_text() + "  exposure: {auth: {apiKeySecretRef: {name: mine}}}\n")
    with serve(file, tmp_path) as process:  # type: ignore[attr-defined]
        assert "scale asks for API keys" in process.says("warning:")
