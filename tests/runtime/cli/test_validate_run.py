"""`podium validate --run`: what a model does wrong is found before anyone is served, and said in plain words."""

import base64
import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.serving.processes import PODIUM

YAML = """
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: scale}
spec:
  source: {uri: "file:./code"}
  engine: Python
  python: {entrypoint: "model:Model"}
  inputs: [{name: x, dtype: FP32, shape: [-1, 256]}]
  outputs: [{name: "y", dtype: FP32, shape: [-1, 256]}]
  batching: {maxBatchSize: 8}
"""
INPUTS = "inputs: [{name: x, dtype: FP32, shape: [-1, 256]}]"
TORCH_BLOCK = 'torch: {entrypoint: "net:build"}'
GOOD = "return {'y': inputs['x'] * np.float32(2)}"


def validate(folder: Path, body: str, *arguments: str, text: str = YAML) -> tuple[int, dict[str, Any]]:
    """Exit status and the JSON of a run over a model whose `infer` has this body."""
    (folder / "code").mkdir(exist_ok=True)
    source = "import os, signal\nimport numpy as np\n\n\nclass Model:\n    kept = []\n\n    def infer(self, inputs):\n"
    (folder / "code" / "model.py").write_text(source + textwrap.indent(textwrap.dedent(body), " " * 8) + "\n")
    (folder / "model.yaml").write_text(text)
    command = [PODIUM, "validate", "-f", str(folder / "model.yaml"), "--run", "--repeat", "20", *arguments]
    environment = {"PODIUM_STATE_DIR": str(folder / "state"), "PATH": "/usr/bin:/bin", **_python_path()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=environment)
    if "--json" not in arguments:
        return done.returncode, {"text": done.stdout + done.stderr}
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}


def test_a_good_model_is_called_good_with_its_figures(tmp_path: Path) -> None:
    status, answer = validate(tmp_path, GOOD, "--json")
    assert (status, answer["ok"], answer["models"][0]["findings"]) == (0, True, [])
    facts = answer["models"][0]["facts"]
    assert facts["p50_ms_batch_1"] > 0
    assert facts["p99_ms_batch_8"] >= facts["p50_ms_batch_8"] > 0
    assert facts["private_bytes"] > 0


@pytest.mark.parametrize(
    ("body", "check", "words"),
    [
        ("return {'y': inputs['x'].astype('f8')}", "run", "FP64"),
        ("return {'y': inputs['x'][:, :3]}", "contract", "shape [1, 3]"),
        ("return {'z': inputs['x']}", "run", "'y'"),
        ("return {'y': inputs['x'] - inputs['x'].mean(axis=0)}", "split", "in a batch of 8 than alone"),
        ("return {'y': np.random.rand(*inputs['x'].shape).astype('f4')}", "split", "than alone"),
        ("self.kept.append(inputs['x']); " + GOOD, "kept", "still looks at an input"),
        ("self.kept.append(np.ones(1 << 17)); " + GOOD, "memory", "grew by"),
        ("inputs['x'][:] = 0; " + GOOD, "writes", "writes to its input"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "death", "SIGSEGV"),
        ("assert len(inputs['x']) < 8; " + GOOD, "run", "AssertionError"),
        ("raise ValueError('never')", "run", "never"),
    ],
)
def test_what_a_model_does_wrong_is_found_with_advice(tmp_path: Path, body: str, check: str, words: str) -> None:
    status, answer = validate(tmp_path, body, "--json")
    assert (status, answer["ok"]) == (1, False)
    found = {finding["check"]: finding for finding in answer["models"][0]["findings"]}
    assert check in found
    assert words in found[check]["problem"]
    assert found[check]["advice"]


def test_a_model_that_does_not_load_is_found_and_told_in_words(tmp_path: Path) -> None:
    status, answer = validate(tmp_path, GOOD, text=YAML.replace("model:Model", "model:Missing"))
    assert status == 1
    assert "load: entrypoint 'model:Missing': module 'model' has no attribute 'Missing'" in answer["text"]


def test_warm_up_requests_are_what_is_asked_where_there_are_any(tmp_path: Path) -> None:
    zeros = base64.b64encode(bytes(4 * 256)).decode()
    request = f'warmup: {{requests: [{{x: {{dtype: FP32, shape: [1, 256], base64: "{zeros}"}}}}]}}'
    text = YAML.replace(INPUTS, "").replace("batching:", f"{request}\n  batching:")
    status, answer = validate(tmp_path, GOOD, "--json", text=text)
    assert (status, answer["models"][0]["findings"]) == (0, [])
    assert "p50_ms_batch_8" in answer["models"][0]["facts"]


def test_nothing_to_ask_is_said(tmp_path: Path) -> None:
    text = YAML.replace(INPUTS, "")
    status, answer = validate(tmp_path, GOOD, "--json", text=text)
    assert status == 1
    assert "declare inputs" in answer["models"][0]["findings"][0]["advice"]


def test_a_wrong_file_is_json_too(tmp_path: Path) -> None:
    status, answer = validate(tmp_path, GOOD, "--json", text=YAML.replace("engine: Python", "engine: Pyton"))
    assert (status, answer["ok"]) == (1, False)
    assert "spec.engine" in answer["errors"][0]


@pytest.mark.torch
def test_a_torch_model_that_writes_to_its_input_is_told_how_not_to(tmp_path: Path) -> None:
    text = YAML.replace("engine: Python", "engine: Torch").replace('python: {entrypoint: "model:Model"}', TORCH_BLOCK)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_text("def build(ctx):\n    return lambda x: {'y': x.mul_(2)}\n")
    status, answer = validate(tmp_path, GOOD, "--json", text=text)
    (finding,) = answer["models"][0]["findings"]
    assert (status, finding["check"]) == (1, "death")
    assert "x = x / 255" in finding["advice"]
