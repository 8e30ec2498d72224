"""The executor, on heap and arena tensors, with members that are plain coroutines."""

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest
from tests.runtime.graph.graphs import Member, Members, Outputs, add_one, execute, graph, later, tensor, text

from podium.errors import ModelError, WorkerDied
from podium.graph import BranchConditionError, GraphRun, MissingOutputError, Paces, StepError
from podium.ipc.arena import Arena
from podium.ipc.tensor import Tensor


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


async def test_a_step_that_only_a_dead_branch_would_read_is_not_run() -> None:
    when = {"from": "request.label", "equals": "hard"}
    plan = graph(
        {"p": "c.y", "q": "d.y"},
        a={"model": "inc", "x": "request.x"},
        b={"model": "costly", "x": "a.y"},
        c={"model": "inc", "x": "b.y", "when": when},
        d={"model": "inc", "x": "a.y"},
    )
    members = Members(inc=add_one, costly=add_one)
    outputs = await execute(plan, {"x": tensor(1), "label": text("easy")}, members, later())
    assert set(outputs) == {"q"}
    assert [member for member, _ in members.calls] == ["inc", "inc"]


async def test_a_branch_is_judged_as_soon_as_its_condition_is_there() -> None:
    """The step that takes long is not begun: by the time that it could, nobody would read it."""
    when = {"from": "label.y", "equals": 7}
    plan = graph(
        {"p": "c.y", "q": "label.y"},
        label={"model": "inc", "x": "request.x"},
        slow={"model": "costly", "x": "label.y"},
        c={"model": "inc", "x": "slow.y", "when": when},
    )
    members = Members(inc=add_one, costly=add_one)
    assert set(await execute(plan, {"x": tensor(1)}, members, later())) == {"q"}
    assert [member for member, _ in members.calls] == ["inc"]


async def test_a_condition_inside_a_branch_that_is_not_taken_is_nobodys_fault() -> None:
    outer, inner = {"from": "request.l", "equals": "h"}, {"from": "request.m", "equals": "x"}
    plan = graph(
        {"p": "c.y", "q": "a.y"},
        a={"model": "inc", "x": "request.x"},
        b={"model": "inc", "x": "a.y", "when": outer},
        c={"model": "inc", "x": "b.y", "when": inner},
    )
    request = {"x": tensor(1), "l": text("easy"), "m": text("x", "y")}
    assert set(await execute(plan, request, Members(inc=add_one), later())) == {"q"}
    with pytest.raises(BranchConditionError, match=r"step c: .*2 different values"):
        await execute(plan, {**request, "l": text("h")}, Members(inc=add_one), later())


async def test_every_value_ends_with_its_last_reader_though_a_branch_died() -> None:
    arena = Arena.create(1 << 20)

    async def in_arena(inputs: Mapping[str, Tensor]) -> Outputs:
        made = arena.tensor(inputs["x"].dtype, inputs["x"].shape)
        made.array()[:] = inputs["x"].array()
        return {"y": arena.seal(made)}

    async def alone(inputs: Mapping[str, Tensor]) -> Outputs:
        assert arena.stats().slots == 1, "the value of a, which both readers got, and nothing else"
        return {"y": inputs["x"]}

    when = {"from": "request.label", "equals": "hard"}
    plan = graph(
        {"p": "dead.y", "q": "last.y"},
        a={"model": "m", "x": "request.x"},
        dead={"model": "m", "x": "a.y", "when": when},
        one={"model": "alone", "x": "a.y"},
        last={"model": "heap", "x": "one.y"},
    )
    request = {"x": tensor(*range(1024)), "label": text("easy")}
    outputs = await execute(plan, request, Members(m=in_arena, alone=alone_of(alone), heap=add_one), later())
    assert set(outputs) == {"q"}
    assert arena.stats().slots == 0
    arena.ledger.check_integrity()
    arena.close()


def alone_of(member: Member) -> Member:
    """The member, on a copy of what it returns: nothing keeps the lease of its input."""

    async def copied(inputs: Mapping[str, Tensor]) -> Outputs:
        return {name: Tensor.from_array(value.array().copy()) for name, value in (await member(inputs)).items()}

    return copied


async def test_a_fan_out_shares_one_slot() -> None:
    arena = Arena.create(1 << 20)
    met, most = asyncio.Barrier(8), []

    async def make(inputs: Mapping[str, Tensor]) -> Outputs:
        made = arena.tensor(inputs["x"].dtype, inputs["x"].shape)
        made.array()[:] = inputs["x"].array()
        return {"y": arena.seal(made)}

    async def look(inputs: Mapping[str, Tensor]) -> Outputs:
        async with asyncio.timeout(10):
            await met.wait()
        most.append(arena.stats().slots)
        return {"y": tensor(float(inputs["x"].array().sum()))}

    branches = {f"b{n}": {"model": "look", "x": "a.y"} for n in range(8)}
    plan = graph({f"o{n}": f"b{n}.y" for n in range(8)}, a={"model": "make", "x": "request.x"}, **branches)
    await execute(plan, {"x": tensor(*range(1024))}, Members(make=make, look=look), later())
    assert most == [1] * 8
    assert arena.stats().slots == 0
    arena.ledger.check_integrity()
    arena.close()


async def test_held_steps_are_returned_where_the_request_calls_for_them() -> None:
    plan = graph(
        {"p": "b.y", "q": "c.y"},
        a={"model": "inc", "x": "request.x"},
        b={"model": "inc", "x": "a.y", "when": {"from": "request.label", "equals": "hard"}},
        c={"model": "inc", "x": "a.y", "when": {"from": "request.label", "equals": "easy"}},
    )
    request = {"x": tensor(1), "label": text("easy")}
    run = GraphRun(plan, request, Members(inc=add_one), later(), Paces(plan))
    assert await run.walk({"b", "c"}) == ["c"]
    np.testing.assert_array_equal(run.inputs_of("c")["x"].array(), [2])
    assert run.outputs() == {}
    run.release()
