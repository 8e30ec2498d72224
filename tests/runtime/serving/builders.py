"""Assignments of a small Python model that multiplies by a factor of its version."""

from typing import Any

from podium_crds.assignment import (
    Artifact,
    Assignment,
    Batching,
    DrainPolicy,
    EngineKind,
    EngineSpec,
    Generation,
    Member,
    ResourceKind,
    ResourceRef,
    Revision,
    TrafficTarget,
)
from podium_crds.tensors import DType, TensorSpec

CODE = """
import os
import time
import numpy as np
from podium import Model

class Scale(Model):
    def load(self, ctx):
        self.factor = ctx.parameters["factor"]
        time.sleep(ctx.parameters.get("load_seconds", 0))
        if ctx.parameters.get("fail"):
            raise RuntimeError("weights are broken")

    def infer(self, inputs):
        if self.factor == 0:
            os._exit(3)
        return {"y": np.asarray(inputs["x"] * np.float32(self.factor))}
"""

SLOW_CODE = CODE.replace("return {", 'time.sleep(float(inputs["x"][0]) / 10)\n        return {')
"""Takes a tenth of its first input in seconds."""

RESOURCE = ResourceRef(kind=ResourceKind.MODEL, name="scale")


def a_member(factor: float, *, code: str = CODE, batch: int = 8, **fields: Any) -> Member:
    parameters = {"factor": factor, **fields.pop("parameters", {})}
    return Member(
        **{
            "name": "scale",
            "load_hash": f"load-{factor:g}-{hash(code) & 0xFFFF:x}",
            "version": f"{factor:g}",
            "artifact": Artifact(files={"scale.py": code}),
            "engine": EngineSpec(kind=EngineKind.PYTHON, entrypoint="scale:Scale", parameters=parameters),
            "inputs": (TensorSpec(name="x", dtype=DType.FP32, shape=(-1,)),),
            "outputs": (TensorSpec(name="y", dtype=DType.FP32, shape=(-1,)),),
            "batching": Batching(max_batch_size=batch),
            **fields,
        }
    )


def a_revision(factor: float, name: str | None = None, **fields: Any) -> Revision:
    return Revision(
        name=name or f"scale-{factor:g}",
        version=f"{factor:g}",
        members=(a_member(factor, **fields),),
        timeout_seconds=10,
    )


def an_assignment(sequence: int, *revisions: Revision, promoted: str | None = None, **weights: int) -> Assignment:
    """All traffic on the first revision unless `weights` (dashes as underscores) say otherwise."""
    shares = {name.replace("_", "-"): weight for name, weight in weights.items()} or {revisions[0].name: 100}
    return Assignment(
        generation=Generation(sequence=sequence),
        resource=RESOURCE,
        revisions=revisions,
        traffic=tuple(TrafficTarget(revision=name, weight=weight) for name, weight in shares.items()),
        promoted=promoted or revisions[0].name,
        drain=DrainPolicy(propagation_seconds=1, drain_timeout_seconds=5, restart_grace_seconds=2),
    )
