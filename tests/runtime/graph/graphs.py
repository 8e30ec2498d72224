"""Graphs in few words, and members that are plain coroutines."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import numpy as np

from podium.errors import WorkerDied
from podium.graph import GraphPlan, Paces
from podium.graph import execute as execute_at_pace
from podium.ipc.tensor import Tensor
from podium_crds.assignment import Graph

Outputs = dict[str, Tensor]
Member = Callable[[Mapping[str, Tensor]], Awaitable[Outputs]]


class Members:
    """Members by name; notes who was called with which deadline."""

    def __init__(self, **members: Member) -> None:
        self._members = members
        self.calls: list[tuple[str, float]] = []
        self.steps: list[str] = []
        """Steps in the order in which they ended."""

    async def __call__(self, member: str, inputs: Mapping[str, Tensor], deadline: float) -> Outputs:
        self.calls.append((member, deadline))
        return await self._members[member](inputs)

    def may_retry(self, member: str, error: Exception) -> bool:
        return isinstance(error, WorkerDied)

    def ended(self, step: str, seconds: float) -> None:
        self.steps.append(step)


def tensor(*values: float) -> Tensor:
    return Tensor.from_array(np.array(values, dtype=np.float32))


def text(*values: str) -> Tensor:
    return Tensor.from_array(np.array(values, dtype=object))


async def add_one(inputs: Mapping[str, Tensor]) -> Outputs:
    return {"y": Tensor.from_array(inputs["x"].array() + 1)}


def edge(name: str, source: object) -> dict[str, object]:
    """`a.y`, `a.y|b.y` for the first that ran, or a constant in a tuple of one."""
    if isinstance(source, tuple):
        return {"name": name, "value": source[0]}
    return (
        {"name": name, "from": source}
        if "|" not in str(source)
        else {"name": name, "fromFirst": str(source).split("|")}
    )


def graph(outputs: dict[str, str], **steps: dict[str, object]) -> GraphPlan:
    """Steps as `name=dict(model=…, x="request.x", …)`."""
    listed = []
    for name, fields in steps.items():
        known = {"model", "when", "timeoutSeconds", "retries"}
        inputs = [edge(key, value) for key, value in fields.items() if key not in known]
        listed.append({"name": name, "inputs": inputs, **{k: v for k, v in fields.items() if k in known}})
    wanted = [edge(name, source) for name, source in outputs.items()]
    return GraphPlan.of(Graph.model_validate({"steps": listed, "outputs": wanted}))


async def execute(plan: GraphPlan, request: Mapping[str, Tensor], members: Members, deadline: float) -> Outputs:
    return await execute_at_pace(plan, request, members, deadline, Paces(plan))


def later(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds
