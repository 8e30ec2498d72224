"""`podium serve` as PID 1 of a namespace of its own, as in a container."""

import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from tests.runtime.serving.processes import PODIUM, until

from podium.telemetry.processes import ZOMBIE, children_of

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
LEAVES_ORPHANS = """
import subprocess
from pathlib import Path
from podium import Model

class Leaver(Model):
    def load(self, ctx):
        self.notes = Path(ctx.parameters["notes"])
        self.asked = 0
        subprocess.Popen(["setsid", "sleep", "600"])

    def infer(self, inputs):
        self.asked += 1
        return {"y": inputs["x"]}

    def unload(self):
        self.notes.write_text(f"unloaded after {self.asked}")
"""
YAML = """
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: leaver}}
spec:
  version: "1"
  source: {{uri: "file:./code"}}
  engine: Python
  python: {{entrypoint: "model:Leaver", parameters: {{notes: "{notes}"}}}}
"""


def can_unshare() -> bool:
    return subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode == 0


def all_below(pid: int) -> set[int]:
    found = {pid}
    for parent in [*found]:
        for seen in children_of(parent):
            found |= all_below(seen.pid)
    return found


@pytest.mark.skipif(not can_unshare(), reason="this process may make no PID namespace")
def test_as_pid_1_it_drains_on_sigterm_unloads_models_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(LEAVES_ORPHANS)
    (tmp_path / "model.yaml").write_text(YAML.format(notes=tmp_path / "notes"))
    command = [*NAMESPACE, str(PODIUM), "serve", "-f", str(tmp_path / "model.yaml"), "--port", "0"]
    log = tmp_path / "log"
    with log.open("w") as sink:
        shell = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        until(lambda: "now serving" in log.read_text(), "it serves")
        url = next(line for line in log.read_text().splitlines() if "listening on" in line).split()[2]
        body = {"inputs": {"x": {"dtype": "FP32", "shape": [1, 1], "data": [1.0]}}}
        assert httpx.post(f"{url}/v1/models/leaver:predict", json=body).status_code == 200
        (first,) = children_of(shell.pid)
        below = all_below(first.pid)
        assert len(below) >= 4, "front end, fork server, worker and what the model started"
        subprocess.run(["kill", f"-{signal.SIGTERM.value}", str(first.pid)], check=True)
        assert shell.wait(60) == 0, log.read_text()
        assert (tmp_path / "notes").read_text() == "unloaded after 1"
        left = [pid for pid in below if Path(f"/proc/{pid}/stat").exists()]
        assert not [pid for pid in left if ZOMBIE not in Path(f"/proc/{pid}/stat").read_text().split()[2]]
    finally:
        shell.kill()
        shell.wait(10)
