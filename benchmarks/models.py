"""The models that are measured: an echo in Python, and a Torch module with 64 MiB of mapped weights."""

from collections.abc import Mapping
from pathlib import Path

ECHO_WIDTH = 128
ECHO_BATCH = 64
WIDTH = 2048
LAYERS = 4
WEIGHT_BYTES = WIDTH * WIDTH * LAYERS * 4

ECHO = """
from podium import Model


class Echo(Model):
    def infer(self, inputs):
        return {"y": inputs["x"] * 2}
"""

WORK = """
import time

from podium import Model

FIXED_S, ROW_S = 0.010, 0.0003


class Sleeping(Model):
    def infer(self, inputs):
        time.sleep(FIXED_S + ROW_S * len(inputs["x"]))
        return {"y": inputs["x"] * 2}


class Burning(Model):
    def infer(self, inputs):
        until = time.process_time() + FIXED_S + ROW_S * len(inputs["x"])
        while time.process_time() < until:
            pass
        return {"y": inputs["x"] * 2}
"""

TOUCHY = """
import torch


class Touchy(torch.nn.Module):
    def forward(self, x):
        if bool((x < 0).any()):
            raise ValueError("a negative row")
        return {"y": x * 2}


def build(context):
    return Touchy()
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
    return [_code("echo", ECHO), _model("echo", instances, _python("echo:Echo", "echo"), width=-1)]


def echoes(count: int, *, width: int = ECHO_WIDTH) -> list[Mapping[str, object]]:
    """That many models which share the code, one worker each: echo, echo-1 … Batches of up to ECHO_BATCH rows."""
    names = ["echo", *(f"echo-{number}" for number in range(1, count))]
    engine = _python("echo:Echo", "echo")
    return [_code("echo", ECHO), *(_model(name, 1, engine, width=width, max_batch=ECHO_BATCH) for name in names)]


def works(work: str, names: list[str], max_batch: int) -> list[Mapping[str, object]]:
    """Models of 10 ms + 0.3 ms a row; `work`: sleeping or burning. Those that batch may wait 5 ms for company. Each has
    workers of its own: models that are alike in everything would share them."""
    delay_us = 5000 if max_batch > 1 else 0
    models = []
    for name in names:
        engine = _python(f"work:{work.capitalize()}", "work", own=name)
        models.append(_model(name, 1, engine, width=8, max_batch=max_batch, max_delay_us=delay_us))
    return [_code("work", WORK), *models]


def poisonable() -> list[Mapping[str, object]]:
    """A Torch model that raises where any row is negative."""
    engine = {"engine": "Torch", "torch": {"entrypoint": "touchy:build"}, "source": {"uri": "configmap://touchy"}}
    return [_code("touchy", TOUCHY), _model("touchy", 1, engine, width=1, max_batch=32)]


def _code(name: str, source: str) -> Mapping[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {f"{name}.py": source}}


def _python(entrypoint: str, code: str, **parameters: str) -> Mapping[str, object]:
    python = {"entrypoint": entrypoint, **({"parameters": parameters} if parameters else {})}
    return {"engine": "Python", "python": python, "source": {"uri": f"configmap://{code}"}}


def stack(instances: int, directory: Path) -> list[Mapping[str, object]]:
    """A Torch model of that many workers; its files are written to `directory`."""
    import torch
    from safetensors.torch import save_file

    (directory / "stack.py").write_text(STACK, encoding="utf-8")
    identity = torch.eye(WIDTH)
    save_file({f"layers.{i}.weight": identity.clone() for i in range(LAYERS)}, directory / "model.safetensors")
    engine = {"engine": "Torch", "torch": {"entrypoint": "stack:build"}, "source": {"uri": f"file://{directory}"}}
    return [_model("stack", instances, engine, width=WIDTH)]


def _model(
    name: str,
    instances: int,
    engine: Mapping[str, object],
    width: int,
    max_batch: int | None = None,
    max_delay_us: int = 0,
) -> Mapping[str, object]:
    delay = {"maxDelayMicroseconds": max_delay_us} if max_delay_us else {}
    batching = {"batching": {"maxBatchSize": max_batch, **delay}} if max_batch else {}
    return {
        "apiVersion": "podium.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"name": name},
        "spec": {
            "version": "1",
            **engine,
            **batching,
            "instances": instances,
            "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, width]}],
            "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, width]}],
        },
    }
