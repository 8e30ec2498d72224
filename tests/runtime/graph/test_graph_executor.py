"""The executor, on heap and arena tensors, with members that are plain coroutines."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import numpy as np
import pytest

from podium.errors import ModelError, WorkerDied
from podium.graph import BranchConditionError, GraphPlan, MissingOutputError, StepError, execute
from podium.ipc.arena import Arena
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


def graph(outputs: dict[str, str], **steps: dict[str, object]) -> GraphPlan:
    """Steps as `name=dict(model=…, x="request.x", …)`."""
    listed = []
    for name, fields in steps.items():
        known = {"model", "when", "timeoutSeconds", "retries"}
        inputs = [{"name": key, "from": value} for key, value in fields.items() if key not in known]
        listed.append({"name": name, "inputs": inputs, **{k: v for k, v in fields.items() if k in known}})
    wanted = [{"name": name, "from": source} for name, source in outputs.items()]
    return GraphPlan.of(Graph.model_validate({"steps": listed, "outputs": wanted}))


def later(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_chain_hands_each_value_on() -> None:
    plan = graph({"z": "b.y"}, a={"model": "inc", "x": "request.x"}, b={"model": "inc", "x": "a.y"})
    outputs = await execute(plan, {"x": tensor(1, 2)}, Members(inc=add_one), later())
    np.testing.assert_array_equal(outputs["z"].array(), [3, 4])


async def test_independent_steps_run_at_once() -> None:
    both = asyncio.Barrier(2)

    async def meet(inputs: Mapping[str, Tensor]) -> Outputs:
        async with asyncio.timeout(10):
            await both.wait()
        return {"y": inputs["x"]}

    plan = graph({"p": "a.y", "q": "b.y"}, a={"model": "m", "x": "request.x"}, b={"model": "m", "x": "request.x"})
    assert set(await execute(plan, {"x": tensor(1)}, Members(m=meet), later())) == {"p", "q"}


async def test_a_failing_step_cancels_its_siblings_and_is_named() -> None:
    cancelled = asyncio.Event()

    async def endless(inputs: Mapping[str, Tensor]) -> Outputs:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    async def failing(inputs: Mapping[str, Tensor]) -> Outputs:
        await asyncio.sleep(0)
        raise ModelError("no")

    plan = graph({"p": "a.y", "q": "b.y"}, a={"model": "e", "x": "request.x"}, b={"model": "f", "x": "request.x"})
    with pytest.raises(StepError, match="step b: no") as caught:
        await execute(plan, {"x": tensor(1)}, Members(e=endless, f=failing), later())
    assert isinstance(caught.value.cause, ModelError)
    assert cancelled.is_set()


@pytest.mark.parametrize(
    ("label", "equals", "runs"),
    [
        (text("hard"), "hard", True),
        (text("easy"), "hard", False),
        (text("hard", "hard"), "hard", True),
        (Tensor.from_array(np.array([3])), 3, True),
        (Tensor.from_array(np.array([True])), True, True),
        (Tensor.from_array(np.array([False])), True, False),
    ],
)
async def test_a_branch_runs_only_where_its_condition_holds(label: Tensor, equals: object, runs: bool) -> None:
    when = {"from": "request.label", "equals": equals}
    plan = graph(
        {"always": "a.y", "rest": "c.y"},
        a={"model": "inc", "x": "request.x"},
        b={"model": "inc", "x": "a.y", "when": when},
        c={"model": "inc", "x": "b.y"},
    )
    members = Members(inc=add_one)
    outputs = await execute(plan, {"x": tensor(1), "label": label}, members, later())
    assert set(outputs) == ({"always", "rest"} if runs else {"always"})
    assert len(members.calls) == (3 if runs else 1)


async def test_a_condition_over_different_rows_is_the_requests_fault() -> None:
    plan = graph({"p": "a.y"}, a={"model": "inc", "x": "request.x", "when": {"from": "request.l", "equals": "h"}})
    with pytest.raises(BranchConditionError, match="2 different values"):
        await execute(plan, {"x": tensor(1), "l": text("h", "e")}, Members(inc=add_one), later())
    with pytest.raises(BranchConditionError, match="has no l"):
        await execute(plan, {"x": tensor(1)}, Members(inc=add_one), later())


async def test_an_output_that_is_not_returned_is_the_models_fault() -> None:
    plan = graph({"p": "a.z"}, a={"model": "inc", "x": "request.x"})
    with pytest.raises(MissingOutputError, match="returned y, expected also z"):
        await execute(plan, {"x": tensor(1)}, Members(inc=add_one), later())


async def test_a_steps_own_timeout_shortens_its_deadline() -> None:
    plan = graph(
        {"p": "b.y"}, a={"model": "inc", "x": "request.x", "timeoutSeconds": 2}, b={"model": "inc", "x": "a.y"}
    )
    members, deadline = Members(inc=add_one), later(10)
    await execute(plan, {"x": tensor(1)}, members, deadline)
    (_, first), (_, second) = members.calls
    assert first < deadline - 5
    assert second == deadline


async def test_a_step_is_retried_only_as_often_and_for_what_the_spec_allows() -> None:
    failures: list[Exception] = [WorkerDied("gone", started=False), WorkerDied("gone", started=False)]

    async def flaky(inputs: Mapping[str, Tensor]) -> Outputs:
        if failures:
            raise failures.pop()
        return await add_one(inputs)

    plan = graph({"p": "a.y"}, a={"model": "m", "x": "request.x", "retries": 2})
    assert "p" in await execute(plan, {"x": tensor(1)}, Members(m=flaky), later())
    failures[:] = [ModelError("no")]
    with pytest.raises(StepError, match="no"):
        await execute(plan, {"x": tensor(1)}, Members(m=flaky), later())


async def test_every_lease_ends_whatever_happens() -> None:
    arena = Arena.create(1 << 20)

    def slot(inputs: Mapping[str, Tensor]) -> Tensor:
        made = arena.tensor(inputs["x"].dtype, inputs["x"].shape)
        made.array()[:] = inputs["x"].array() + 1
        return arena.seal(made)

    async def in_arena(inputs: Mapping[str, Tensor]) -> Outputs:
        return {"y": slot(inputs), "unread": slot(inputs)}

    async def failing(inputs: Mapping[str, Tensor]) -> Outputs:
        raise ModelError("no")

    chain = {"a": {"model": "m", "x": "request.x"}, "b": {"model": "m", "x": "a.y"}}
    request = {"x": arena.seal(arena.tensor(tensor(1).dtype, (1024,)))}
    outputs = await execute(graph({"p": "b.y", "q": "a.y"}, **chain), request, Members(m=in_arena), later())
    assert arena.stats().slots == 3
    for output in outputs.values():
        output.release()
    broken = graph({"p": "c.y"}, **chain, c={"model": "f", "x": "b.y"})
    with pytest.raises(StepError):
        await execute(broken, request, Members(m=in_arena, f=failing), later())
    request["x"].release()
    assert arena.stats().slots == 0
    arena.ledger.check_integrity()
    arena.close()


async def test_a_value_passes_from_step_to_step_without_a_copy() -> None:
    seen: list[int] = []

    async def look(inputs: Mapping[str, Tensor]) -> Outputs:
        seen.append(inputs["x"].array().__array_interface__["data"][0])
        return {"y": inputs["x"]}

    plan = graph(
        {"p": "c.y"}, **{n: {"model": "m", "x": s} for n, s in (("a", "request.x"), ("b", "a.y"), ("c", "b.y"))}
    )
    await execute(plan, {"x": tensor(1)}, Members(m=look), later())
    assert len(set(seen)) == 1
