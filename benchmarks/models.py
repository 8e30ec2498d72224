"""The models that are measured: an echo in Python, and a Torch module with 64 MiB of mapped weights."""

from collections.abc import Mapping
from pathlib import Path

WIDTH = 2048
LAYERS = 4
WEIGHT_BYTES = WIDTH * WIDTH * LAYERS * 4

ECHO = """
from podium import Model


class Echo(Model):
    def infer(self, inputs):
        return {"y": inputs["x"] * 2}
"""

STACK = f"""
import torch


class Stack(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear({WIDTH}, {WIDTH}, bias=False) for _ in range({LAYERS})])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return {{"y": x}}


def build(context):
    with torch.device("meta"):  # the engine assigns the mapped weights
        return Stack()
"""


def echo(instances: int) -> list[Mapping[str, object]]:
    """A Python model of that many workers."""
    files = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "echo"}, "data": {"echo.py": ECHO}}
    engine = {"engine": "Python", "python": {"entrypoint": "echo:Echo"}, "source": {"uri": "configmap://echo"}}
    return [files, _model("echo", instances, engine, width=-1)]


def stack(instances: int, directory: Path) -> list[Mapping[str, object]]:
    """A Torch model of that many workers; its files are written to `directory`."""
    import torch
    from safetensors.torch import save_file

    (directory / "stack.py").write_text(STACK, encoding="utf-8")
    identity = torch.eye(WIDTH)
    save_file({f"layers.{i}.weight": identity.clone() for i in range(LAYERS)}, directory / "model.safetensors")
    engine = {"engine": "Torch", "torch": {"entrypoint": "stack:build"}, "source": {"uri": f"file://{directory}"}}
    return [_model("stack", instances, engine, width=WIDTH)]


def _model(name: str, instances: int, engine: Mapping[str, object], width: int) -> Mapping[str, object]:
    return {
        "apiVersion": "podium.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"name": name},
        "spec": {
            "version": "1",
            **engine,
            "instances": instances,
            "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, width]}],
            "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, width]}],
        },
    }
