"""Resources that the tests apply: a model that multiplies by a factor, so that an answer tells its version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

API_VERSION = "podium.dev/v1alpha1"
CODE = "scaler-code"
"""Name of the ConfigMap with the code of every test model."""

MODEL_PY = '''\
"""Multiplies x by `scale`; each row may ask for a delay in seconds, and a negative one ends the process.

Inputs above 0 are clients', for warming up is done with zeros: the faults below are meant for them alone.
"""

import asyncio
import os
import signal
import time

import numpy as np


class Model:
    def load(self, ctx):
        time.sleep(float(ctx.parameters.get("loadSeconds", 0)))
        if ctx.parameters.get("failLoad"):
            raise RuntimeError("this version was told to fail its load")
        self.scale = float(ctx.parameters["scale"])
        self.fault = ctx.parameters.get("fault", "")
        self.slow_s = float(ctx.parameters.get("slowSeconds", 0))

    def infer(self, inputs):
        delay = float(np.max(inputs["delay"]))
        asked = bool(np.max(inputs["x"]) > 0)
        if delay < 0 or (asked and self.fault == "dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if asked and self.fault == "raises":
            raise RuntimeError("this version was told to fail its requests")
        delay = max(delay, self.slow_s)
        if delay:
            time.sleep(delay)
        return {"y": (inputs["x"] * self.scale).astype(np.float32)}

    async def infer_stream(self, inputs):
        pause = float(np.max(inputs["delay"])) / 7
        y = (inputs["x"] * self.scale).astype(np.float32)
        for _ in range(7):
            await asyncio.sleep(pause)
            yield {"y": y}
'''


def shape(mark: str) -> dict[str, Any]:
    """Fields of a spec that need new pods and change nothing else: an environment variable."""
    return {"env": [{"name": "E2E_SHAPE", "value": mark}]}


def code() -> dict[str, Any]:
    """The ConfigMap that every test model takes its code from."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CODE}, "data": {"model.py": MODEL_PY}}


@dataclass(frozen=True, slots=True)
class Scaler:
    """An InferenceModel that answers y = x * scale. Its version is named after the scale."""

    name: str = "scaler"
    scale: int = 2
    replicas: int = 1
    instances: int = 1
    propagation_seconds: int = 3
    parameters: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=lambda: {"uri": f"configmap://{CODE}"})
    rollout: Mapping[str, Any] = field(default_factory=dict)
    smoke: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def at(self, scale: int, **parameters: Any) -> Scaler:
        """The next version: another scale, and how it is to behave."""
        return replace(self, scale=scale, parameters=parameters)

    def with_replicas(self, replicas: int) -> Scaler:
        """The same with another number of pods."""
        return replace(self, replicas=replicas)

    def with_spec(self, **fields: Any) -> Scaler:
        """With further fields of the spec, in wire names."""
        return replace(self, extra={**self.extra, **fields})

    @property
    def version(self) -> str:
        """`spec.version`."""
        return f"x{self.scale}"

    def definition(self) -> dict[str, Any]:
        """What a pipeline's inline member holds."""
        tensor = {"dtype": "FP32", "shape": [-1, 1]}
        smoke = {} if self.smoke is None else {"smokeTest": dict(self.smoke)}
        return {
            **smoke,
            "version": self.version,
            "source": dict(self.source),
            "engine": "Python",
            "python": {"entrypoint": "model:Model", "parameters": {"scale": self.scale, **self.parameters}},
            "inputs": [{"name": "x", **tensor}, {"name": "delay", **tensor}],
            "outputs": [{"name": "y", **tensor}],
            "instances": self.instances,
            "batching": {"maxBatchSize": 8},
        }

    def manifest(self) -> dict[str, Any]:
        """The resource as a user would write it."""
        rollout = {"propagationSeconds": self.propagation_seconds, "drainTimeoutSeconds": 30, **self.rollout}
        spec = {
            **self.definition(),
            "replicas": self.replicas,
            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "20m", "memory": "128Mi"}},
            "rollout": rollout,
            **self.extra,
        }
        return {"apiVersion": API_VERSION, "kind": "InferenceModel", "metadata": {"name": self.name}, "spec": spec}


@dataclass(frozen=True, slots=True)
class Chain:
    """An InferencePipeline of two inline scalers one after the other: y = x * first * second."""

    name: str = "chain"
    first: int = 2
    second: int = 5
    replicas: int = 1
    propagation_seconds: int = 3
    instances: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """How its second member is to behave."""
    smoke: Mapping[str, Any] | None = None
    """Of its second member."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def at(self, second: int, **parameters: Any) -> Chain:
        """The next version: another second factor, and how that member is to behave."""
        return replace(self, second=second, parameters=parameters)

    def with_replicas(self, replicas: int) -> Chain:
        """The same with another number of pods."""
        return replace(self, replicas=replicas)

    def with_spec(self, **fields: Any) -> Chain:
        """With further fields of the spec, in wire names."""
        return replace(self, extra={**self.extra, **fields})

    @property
    def scale(self) -> int:
        """What the whole multiplies by."""
        return self.first * self.second

    @property
    def version(self) -> str:
        """`spec.version`."""
        return f"x{self.scale}"

    def last(self) -> Scaler:
        """The member that gives the answer."""
        return Scaler(scale=self.second, parameters=self.parameters, smoke=self.smoke)

    def manifest(self) -> dict[str, Any]:
        """The resource as a user would write it."""
        members = {"first": Scaler(scale=self.first), "second": self.last()}
        delay = {"name": "delay", "from": "request.delay"}
        spec = {
            "version": self.version,
            "models": [
                {"name": name, "inline": replace(member, instances=self.instances).definition()}
                for name, member in members.items()
            ],
            "steps": [
                {"name": "once", "model": "first", "inputs": [{"name": "x", "from": "request.x"}, delay]},
                {"name": "twice", "model": "second", "inputs": [{"name": "x", "from": "once.y"}, delay]},
            ],
            "outputs": [{"name": "y", "from": "twice.y"}],
            "replicas": self.replicas,
            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "20m", "memory": "128Mi"}},
            "rollout": {"propagationSeconds": self.propagation_seconds, "drainTimeoutSeconds": 30},
            **self.extra,
        }
        return {"apiVersion": API_VERSION, "kind": "InferencePipeline", "metadata": {"name": self.name}, "spec": spec}
