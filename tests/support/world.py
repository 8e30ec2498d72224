"""What a user does in one namespace of a real API server with a local node, and a client that keeps asking."""

import asyncio
import itertools
from typing import Any

import aiohttp
from tests.support.controlplane import ControlPlane
from tests.support.local_node import LocalNode, LocalPod
from tests.support.waiting import eventually

from podium_crds.keys import LABEL_MODEL, LABEL_PIPELINE
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.kinds import Ref

MODEL = ("scale", "InferenceModel")
CHAIN = ("chain", "InferencePipeline")
CODE = """
import os

import numpy as np
from podium import Model

class Scale(Model):
    def load(self, ctx):
        self.factor = ctx.parameters["factor"]
        if self.factor < 0:
            raise RuntimeError("the weights are broken")
        self.fails = ctx.parameters.get("fails", False)
        self.dies = ctx.parameters.get("dies", False)

    def infer(self, inputs):
        if self.dies and inputs["x"].any():  # not while it warms up, on zeros
            os._exit(3)
        if self.fails:
            raise ValueError("this version cannot")
        return {"y": np.asarray(inputs["x"] * np.float32(self.factor))}
"""


def scale(
    namespace: str, factor: float, *, replicas: int = 1, rollout: dict[str, Any] | None = None, **spec: Any
) -> Manifest:
    """A model that multiplies by its factor."""
    tensor = {"dtype": "FP32", "shape": [-1]}
    return {
        "apiVersion": "podium.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"name": "scale", "namespace": namespace},
        "spec": {
            "version": f"{factor:g}".replace("-", "minus"),
            "source": {"uri": "configmap://code"},
            "engine": "Python",
            "python": {"entrypoint": "scale:Scale", "parameters": {"factor": factor}},
            "inputs": [{"name": "x", **tensor}],
            "outputs": [{"name": "y", **tensor}],
            "replicas": replicas,
            "rollout": {
                "propagationSeconds": 1,
                "drainTimeoutSeconds": 5,
                "rollbackWindowSeconds": 30,
                **(rollout or {}),
            },
            **spec,
        },
    }


def chain(namespace: str, member: dict[str, Any]) -> Manifest:
    """A pipeline that multiplies by a member, and then by ten."""
    tensor = {"dtype": "FP32", "shape": [-1]}
    tenfold = {
        "source": {"uri": "configmap://code"},
        "engine": "Python",
        "python": {"entrypoint": "scale:Scale", "parameters": {"factor": 10}},
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
    }
    return {
        "apiVersion": "podium.dev/v1alpha1",
        "kind": "InferencePipeline",
        "metadata": {"name": "chain", "namespace": namespace},
        "spec": {
            "models": [{"name": "first", **member}, {"name": "second", "inline": tenfold}],
            "steps": [
                {"name": "one", "model": "first", "inputs": [{"name": "x", "from": "request.x"}]},
                {"name": "two", "model": "second", "inputs": [{"name": "x", "from": "one.y"}]},
            ],
            "outputs": [{"name": "y", "from": "two.y"}],
            "rollout": {"propagationSeconds": 1, "drainTimeoutSeconds": 5, "rollbackWindowSeconds": 30},
        },
    }


class World:
    """One namespace with its node, and what a user does in it."""

    def __init__(self, plane: ControlPlane, client: KubeClient, namespace: str, node: LocalNode) -> None:
        self.plane = plane
        self.client = client
        self.namespace = namespace
        self.node = node

    async def apply(self, manifest: Manifest) -> None:
        await self.client.apply(manifest)

    async def model(self, name: str = "scale", kind: str = "InferenceModel") -> Manifest:
        return await self.client.get(Ref(kind, self.namespace, name))

    async def condition(self, kind: str, of: tuple[str, str] = MODEL) -> tuple[str, str, str]:
        """Status, reason and message, at the current generation; empty before."""
        found = await self.model(*of)
        for each in found.get("status", {}).get("conditions", ()):
            if each["type"] == kind and each["observedGeneration"] == found["metadata"]["generation"]:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    async def until(
        self, kind: str, status: str, reason: str | None = None, *, of: tuple[str, str] = MODEL, within_s: float = 120
    ) -> str:
        """Wait for a condition; its message."""

        async def holds() -> str | None:
            found = await self.condition(kind, of)
            assert found[0] == status, f"{kind} is {found}; status {(await self.model(*of)).get('status')}"
            assert reason in (None, found[1]), f"{kind} is {found}"
            return found[2] or "-"

        found = await eventually(holds, within_s=within_s, what=f"{kind}={status} {reason or ''}")
        assert found is not None
        return found

    async def ask(self, x: float = 1.0, *, turn: int = 0) -> tuple[float, str]:
        """One request to some ready pod, as a Service would choose it: the answer and its revision."""
        return await self._asked(LABEL_MODEL, "/v1/models/scale:predict", x, turn)

    async def run(self, x: float = 1.0, *, turn: int = 0) -> tuple[float, str]:
        """One request to some ready pod of the pipeline `chain`: the answer and its revision."""
        return await self._asked(LABEL_PIPELINE, "/v1/pipelines/chain:run", x, turn)

    def ready(self, label: str) -> list[LocalPod]:
        """Pods that carry the label and can be asked, none of them on its way out."""
        pods = [pod for pod in self.node.pods.values() if label in pod.manifest["metadata"]["labels"]]
        return [pod for pod in pods if pod.ready_since and "terminating" not in pod.status]

    async def _asked(self, label: str, path: str, x: float, turn: int) -> tuple[float, str]:
        ready = self.ready(label)
        assert ready, "no pod is ready"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.post(f"{ready[turn % len(ready)].url}{path}", json={"inputs": {"x": [x]}}) as answer,
        ):
            body = await answer.json()
            assert answer.status == 200, body
            return float(body["outputs"]["y"]["data"][0]), answer.headers["podium-revision"]


class Asking:
    """A client that keeps asking every ready pod in turn; each answer, and each failure."""

    def __init__(self, world: World, of: tuple[str, str] = MODEL) -> None:
        self._world = world
        self._ask_one = world.run if of == CHAIN else world.ask
        self._label = LABEL_PIPELINE if of == CHAIN else LABEL_MODEL
        self._asks = True
        self.answers: list[float] = []
        self.failures: list[str] = []
        self.by_revision: dict[str, set[float]] = {}
        """Answers that each revision gave, by the name that came with them."""
        self.fewest_ready = len(world.ready(self._label))

    async def __aenter__(self) -> "Asking":
        self._task = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._asks = False
        await self._task

    async def _ask(self) -> None:
        for turn in itertools.count():
            if not self._asks:
                return
            self.fewest_ready = min(self.fewest_ready, len(self._world.ready(self._label)))
            try:
                answer, revision = await self._ask_one(turn=turn)
            except (AssertionError, aiohttp.ClientError, TimeoutError) as exc:
                self.failures.append(str(exc) or type(exc).__name__)
            else:
                self.answers.append(answer)
                self.by_revision.setdefault(revision, set()).add(answer)
            await asyncio.sleep(0.02)
