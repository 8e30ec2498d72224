"""What a step takes its inputs from: branches that join, several conditions, constants, the request itself."""

from collections.abc import Mapping

import numpy as np
import pytest
from tests.runtime.graph.graphs import Members, Outputs, add_one, execute, graph, later, tensor, text

from podium.graph import GraphPlan, GraphRun, Paces
from podium.ipc.tensor import Tensor
from podium_crds.assignment import Graph
from podium_crds.assignment import Member as Member_

EASY = {"from": "request.label", "equals": "easy"}
OTHERWISE = {"from": "request.label", "notEquals": "easy"}


@pytest.mark.parametrize(("label", "ran", "answer"), [("easy", "small", 2), ("hard", "big", 101)])
async def test_a_join_takes_the_branch_that_ran_and_the_other_never_runs(label: str, ran: str, answer: int) -> None:
    async def add_hundred(inputs: Mapping[str, Tensor]) -> Outputs:
        return {"y": Tensor.from_array(inputs["x"].array() + 100)}

    members = Members(small=add_one, big=add_hundred, inc=add_one)
    plan = graph(
        {"p": "small.y|big.y", "q": "last.y"},
        small={"model": "small", "x": "request.x", "when": EASY},
        big={"model": "big", "x": "request.x", "when": OTHERWISE},
        last={"model": "inc", "x": "big.y|small.y"},
    )
    outputs = await execute(plan, {"x": tensor(1, 2), "label": text(label, label)}, members, later())
    assert outputs["p"].array()[0] == answer
    assert outputs["q"].array()[0] == answer + 1
    assert [member for member, _ in members.calls] == [ran, "inc"]


async def test_a_join_falls_back_to_what_the_client_sent() -> None:
    plan = graph({"p": "a.y|request.x"}, a={"model": "m", "x": "request.x", "when": EASY})
    outputs = await execute(plan, {"x": tensor(1), "label": text("hard")}, Members(m=add_one), later())
    np.testing.assert_array_equal(outputs["p"].array(), [1])


async def test_a_join_of_steps_that_were_all_skipped_is_skipped() -> None:
    plan = graph(
        {"p": "c.y", "q": "d.y"},
        a={"model": "m", "x": "request.x", "when": EASY},
        b={"model": "m", "x": "request.x", "when": EASY},
        c={"model": "m", "x": "a.y|b.y"},
        d={"model": "m", "x": "request.x"},
    )
    assert set(await execute(plan, {"x": tensor(1), "label": text("hard")}, Members(m=add_one), later())) == {"q"}


async def test_all_conditions_of_a_step_must_hold() -> None:
    plan = graph(
        {"p": "a.y", "q": "b.y"},
        a={"model": "m", "x": "request.x", "when": {**EASY, "and": [{"from": "request.flag", "equals": True}]}},
        b={"model": "m", "x": "request.x"},
    )
    for label, flag, runs in (("easy", True, True), ("easy", False, False), ("hard", True, False)):
        request = {"x": tensor(1), "label": text(label), "flag": Tensor.from_array(np.array([flag]))}
        assert ("p" in await execute(plan, request, Members(m=add_one), later())) is runs


async def test_a_constant_has_as_many_rows_as_the_request() -> None:
    seen = []

    async def look(inputs: Mapping[str, Tensor]) -> Outputs:
        seen.append({name: tensor.array().tolist() for name, tensor in inputs.items() if name != "x"})
        return {"y": inputs["x"]}

    plan = graph(
        {"p": "a.y"}, a={"model": "m", "x": "request.x", "word": ("hi",), "pair": ([True, False],), "flag": (True,)}
    )
    await execute(plan, {"x": tensor(1, 2, 3)}, Members(m=look), later())
    assert seen == [{"word": [b"hi"] * 3, "pair": [[True, False]] * 3, "flag": [True] * 3}]


async def test_a_constant_takes_the_type_that_the_member_declares() -> None:
    member = Member_.model_validate(
        {
            "name": "m",
            "loadHash": "h",
            "version": "1",
            "artifact": {},
            "engine": {"kind": "Python"},
            "inputs": [{"name": "k", "dtype": "FP16", "shape": [-1]}],
        }
    )
    steps = [{"name": "a", "model": "m", "inputs": [{"name": "x", "from": "request.x"}, {"name": "k", "value": 1}]}]
    spec = Graph.model_validate({"steps": steps, "outputs": [{"name": "p", "from": "a.y"}]})

    async def look(inputs: Mapping[str, Tensor]) -> Outputs:
        return {"y": inputs["k"]}

    answer = await execute(GraphPlan.of(spec, [member]), {"x": tensor(1, 2)}, Members(m=look), later())
    assert answer["p"].array().dtype == np.float16


async def test_a_join_waits_for_a_branch_that_is_decided_late() -> None:
    """One alternative ran long ago; the other is skipped by a step that ends later."""
    plan = graph(
        {"p": "last.y"},
        small={"model": "inc", "x": "request.x"},
        judge={"model": "inc", "x": "small.y"},
        big={"model": "big", "x": "request.x", "when": {"from": "judge.y", "equals": 100}},
        last={"model": "inc", "x": "big.y|small.y"},
    )
    members = Members(inc=add_one, big=add_one)
    outputs = await execute(plan, {"x": tensor(1)}, members, later())
    np.testing.assert_array_equal(outputs["p"].array(), [3])
    assert members.steps == ["small", "judge", "last"]


async def test_a_step_that_streams_is_the_source_of_what_nothing_before_it_has() -> None:
    plan = graph(
        {"first": "big.y|small.y", "second": "small.y|big.y"},
        small={"model": "inc", "x": "request.x"},
        big={"model": "inc", "x": "request.x"},
    )
    run = GraphRun(plan, {"x": tensor(1)}, Members(inc=add_one), later(), Paces(plan))
    assert await run.walk({"big"}) == ["big"]
    assert list(run.outputs_of("big")) == ["first"]
    run.release()


async def test_a_step_whose_values_no_output_would_take_is_not_needed_beside_another_that_streams() -> None:
    plan = graph(
        {"first": "big.y|small.y", "second": "big.y|small.y", "third": "other.y"},
        small={"model": "inc", "x": "request.x"},
        big={"model": "inc", "x": "request.x", "when": {"from": "request.on", "equals": 1}},
        other={"model": "inc", "x": "request.x"},
    )
    for on, needed in ((1, ["big", "other"]), (0, ["small", "other"])):
        run = GraphRun(plan, {"x": tensor(1), "on": tensor(on)}, Members(inc=add_one), later(), Paces(plan))
        kept = await run.walk({"big", "small", "other"})
        assert sorted(name for name in kept if run.outputs_of(name, kept)) == sorted(needed)
        run.release()


async def test_steps_that_were_kept_can_be_run_after_all() -> None:
    plan = graph(
        {"first": "big.y", "second": "small.y"},
        small={"model": "inc", "x": "request.x"},
        big={"model": "inc", "x": "request.x"},
    )
    members = Members(inc=add_one)
    run = GraphRun(plan, {"x": tensor(1)}, members, later(), Paces(plan))
    assert sorted(await run.walk({"big", "small"})) == ["big", "small"]
    assert not members.steps
    await run.run_also(["small"])
    assert members.steps == ["small"]
    np.testing.assert_array_equal(run.outputs()["second"].array(), [2])
    assert list(run.outputs()) == ["second"]
    run.release()
