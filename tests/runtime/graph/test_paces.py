"""How the time of a request is shared out among its steps."""

import pytest
from tests.runtime.graph.graphs import Members, add_one, graph, later, tensor

from podium.graph import Paces
from podium.graph import execute as execute_at_pace

CHAIN = {n: {"model": "inc", "x": s} for n, s in (("a", "request.x"), ("b", "a.y"), ("c", "b.y"))}


def test_a_step_leaves_the_steps_after_it_the_time_that_they_need() -> None:
    plan = graph({"p": "c.y"}, **CHAIN)
    paces = Paces(plan)
    assert paces.deadline("a", 100.0, 110.0) == 110.0, "nothing is known yet"
    for _ in range(8):
        paces.add("b", 0.5)
        paces.add("c", 1.5)
    assert paces.deadline("a", 100.0, 110.0) == pytest.approx(108.0)
    assert paces.deadline("b", 100.0, 110.0) == pytest.approx(108.5)
    assert paces.deadline("c", 100.0, 110.0) == 110.0


def test_time_that_is_too_short_is_split_as_the_steps_need_it() -> None:
    paces = Paces(graph({"p": "c.y"}, **CHAIN))
    for step, seconds in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        for _ in range(8):
            paces.add(step, seconds)
    assert paces.deadline("a", 100.0, 101.0) == pytest.approx(100.25)
    assert paces.deadline("b", 100.0, 101.0) == pytest.approx(100 + 1 / 3)


def test_of_two_ways_to_the_end_the_longer_one_counts() -> None:
    plan = graph({"p": "b.y", "q": "c.y"}, **{**CHAIN, "c": {"model": "inc", "x": "a.y"}})
    paces = Paces(plan)
    for step, seconds in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        for _ in range(8):
            paces.add(step, seconds)
    assert paces.deadline("a", 0.0, 10.0) == pytest.approx(7.0)


def test_a_pace_is_that_of_late() -> None:
    paces = Paces(graph({"p": "c.y"}, **CHAIN))
    for _ in range(8):
        paces.add("b", 9.0)
    assert paces.seconds("b") == 9.0
    for _ in range(64):
        paces.add("b", 0.1)
    assert paces.seconds("b") == 0.1


async def test_the_rest_of_the_deadline_is_handed_from_step_to_step() -> None:
    plan = graph({"p": "c.y"}, **CHAIN)
    paces, members = Paces(plan), Members(inc=add_one)
    for _ in range(8):
        paces.add("c", 2.0)
    deadline = later(10)
    await execute_at_pace(plan, {"x": tensor(1)}, members, deadline, paces)
    first, second, third = [at for _, at in members.calls]
    assert (first, second) == (pytest.approx(deadline - 2), pytest.approx(deadline - 2))
    assert third == deadline
