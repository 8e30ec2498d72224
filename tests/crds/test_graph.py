"""Graphs: what is refused, and where; and the order of what is not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_crds.assignment import Graph, Step, StepCondition, StepInput
from podium_crds.graph import (
    MAX_MEMBERS,
    MAX_STEPS,
    Contract,
    GraphFault,
    check_graph,
    predecessors,
    topological_order,
)
from podium_crds.tensors import DType, TensorSpec

ANY = Contract()


def spec(name: str, dtype: DType = DType.FP32, shape: tuple[int, ...] = (-1,), *, optional: bool = False) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, optional=optional)


def edge_of(text: str) -> StepInput:
    """`input<source`, `input<first|second`, or `input=constant` in JSON."""
    name, _, source = text.partition("<")
    if not source:
        name, _, constant = text.partition("=")
        return StepInput(name=name, value=json.loads(constant))
    first, *others = source.split("|")
    return StepInput(name=name, from_first=(first, *others)) if others else StepInput(name=name, source=first)


def condition_of(text: str) -> StepCondition:
    """`source`, which must equal "x"; or `source==json` and `source!=json`, joined with ` & `."""
    found = []
    for part in text.split(" & "):
        operator = "!=" if "!=" in part else "=="
        source, _, value = part.partition(operator)
        key = "equals" if operator == "==" else "notEquals"
        found.append({"from": source, key: json.loads(value) if value else "x"})
    return StepCondition.model_validate({**found[0], **({"and": found[1:]} if found[1:] else {})})


def step(name: str, *edges: str, model: str = "m", when: str | None = None) -> Step:
    """A step with edges written `input<source`."""
    inputs = tuple(edge_of(edge) for edge in edges)
    condition = condition_of(when) if when else None
    return Step(name=name, model=model, inputs=inputs, when=condition)


def graph(*steps: Step, out: tuple[str, ...] = ("y<last.y",)) -> Graph:
    edges = tuple(edge_of(edge) for edge in out)
    return Graph(steps=steps, outputs=edges)


def faults(checked: Graph, **members: Contract) -> list[tuple[GraphFault, str | None, str | None]]:
    return [(found.fault, found.step, found.edge) for found in check_graph(checked, members or {"m": ANY})]


def test_a_diamond_of_declared_types_can_run() -> None:
    text = spec("text", DType.BYTES)
    assert not faults(
        graph(
            step("left", "text<request.text", model="a"),
            step("right", "text<request.text", model="a"),
            step("last", "l<left.ids", "r<right.ids", model="b"),
        ),
        a=Contract((text,), (spec("ids", DType.INT64, (-1, -1)),)),
        b=Contract(
            (spec("l", DType.INT64, (-1, -1)), spec("r", DType.INT64, (-1, 128)), spec("extra", optional=True)),
            (spec("y"),),
        ),
    )


def test_a_source_that_is_no_step_is_named_with_its_edge() -> None:
    assert faults(graph(step("last", "x<frist.y"))) == [(GraphFault.UNKNOWN_SOURCE, "last", "x")]


def test_an_output_that_the_member_does_not_declare_is_named() -> None:
    checked = graph(step("first", "x<request.x", model="a"), step("last", "x<first.z"))
    assert faults(checked, m=ANY, a=Contract((), (spec("y"),))) == [(GraphFault.UNKNOWN_OUTPUT, "last", "x")]


def test_an_input_that_the_member_does_not_declare_is_named() -> None:
    found = faults(graph(step("last", "x<request.x", "z<request.z")), m=Contract((spec("x"),)))
    assert found == [(GraphFault.UNKNOWN_INPUT, "last", "z")]


def test_a_required_input_that_nothing_feeds_is_named() -> None:
    found = faults(graph(step("last", "x<request.x")), m=Contract((spec("x"), spec("z"), spec("o", optional=True))))
    assert found == [(GraphFault.INPUT_MISSING, "last", "z")]


def test_an_input_with_two_writers_is_named_once_for_each() -> None:
    found = faults(graph(step("last", "x<request.a", "x<request.b")))
    assert found == [(GraphFault.TWO_WRITERS, "last", "x")] * 2


def test_an_output_of_the_pipeline_with_two_writers_is_named() -> None:
    found = faults(graph(step("last", "x<request.a"), out=("y<last.y", "y<last.z")))
    assert found == [(GraphFault.TWO_WRITERS, None, "y")] * 2


def test_an_edge_of_two_types_says_how_they_differ() -> None:
    checked = graph(step("first", "x<request.x", model="a"), step("last", "x<first.y", model="b"))
    contracts = {"a": Contract((), (spec("y", shape=(-1, 384)),)), "b": Contract((spec("x", shape=(-1, 768)),))}
    [found] = check_graph(checked, contracts)
    assert (found.fault, found.step, found.edge) == (GraphFault.TYPES_DISAGREE, "last", "x")
    assert found.message == "first.y cannot feed it: dimension 1 is 384, expected 768"


def test_one_request_value_cannot_be_of_two_types() -> None:
    checked = graph(step("one", "x<request.v", model="a"), step("last", "x<request.v", "y<one.y", model="b"))
    contracts = {"a": Contract((spec("x", DType.INT64),)), "b": Contract((spec("x"), spec("y")))}
    [found] = check_graph(checked, contracts)
    assert (found.fault, found.step, found.edge) == (GraphFault.TYPES_DISAGREE, "last", "x")
    assert "also feeds one.x" in found.message


def test_a_cycle_names_every_step_that_can_never_start() -> None:
    found = faults(graph(step("a", "x<b.y"), step("b", "x<a.y"), step("last", "x<b.y"), step("free", "x<request.x")))
    assert {where for fault, where, _ in found if fault is GraphFault.CYCLE} == {"a", "b", "last"}


def test_a_step_that_feeds_itself_is_a_cycle() -> None:
    assert (GraphFault.CYCLE, "last", None) in faults(graph(step("last", "x<last.y")))


def test_a_condition_is_a_dependency_too() -> None:
    found = faults(graph(step("a", "x<request.x", when="last.y"), step("last", "x<a.y")))
    assert {fault for fault, _, _ in found} == {GraphFault.CYCLE}


def test_a_condition_on_nothing_is_named() -> None:
    found = faults(graph(step("last", "x<request.x", when="nothing.y")))
    assert (GraphFault.UNKNOWN_SOURCE, "last", "when") in found


def test_a_branch_that_ends_nowhere_is_named() -> None:
    found = faults(graph(step("aside", "x<request.x"), step("last", "x<request.x")))
    assert found == [(GraphFault.NO_WAY_TO_OUTPUT, "aside", None)]


def test_a_step_that_only_decides_about_another_is_needed() -> None:
    checked = graph(step("classify", "x<request.x"), step("last", "x<request.x", when="classify.label"))
    assert not faults(checked)


def test_a_member_that_no_step_calls_is_named() -> None:
    [found] = check_graph(graph(step("last", "x<request.x")), {"m": ANY, "idle": ANY})
    assert found.fault is GraphFault.UNUSED_MEMBER
    assert str(found.problem()).startswith("spec.models: member idle")


def test_a_call_of_an_unknown_member_is_named() -> None:
    assert (GraphFault.UNKNOWN_MEMBER, "last", None) in faults(graph(step("last", "x<request.x", model="n")))


def test_two_steps_of_one_name_and_the_reserved_name_are_refused() -> None:
    found = faults(graph(step("last", "x<request.x"), step("last", "x<request.x"), step("request", "x<request.x")))
    assert {fault for fault, _, _ in found} == {GraphFault.TWO_STEPS_OF_ONE_NAME, GraphFault.RESERVED_NAME}


def test_too_many_steps_and_members_are_refused() -> None:
    steps = [step(f"s{i}", "x<request.x") for i in range(MAX_STEPS + 1)]
    members = {f"m{i}": ANY for i in range(MAX_MEMBERS)} | {"m": ANY}
    found = [problem.fault for problem in check_graph(graph(*steps), members)]
    assert found.count(GraphFault.TOO_LARGE) == 2


EASY, HARD = step("easy", "x<request.x", when='request.l=="a"'), step("hard", "x<request.x", when='request.l!="a"')


def test_branches_are_joined_by_the_first_that_ran() -> None:
    assert not faults(graph(EASY, HARD, out=("y<easy.y|hard.y",)))
    assert not faults(graph(EASY, step("last", "x<easy.y|request.x")))


def test_a_step_that_needs_both_branches_never_runs() -> None:
    found = faults(graph(EASY, HARD, step("last", "a<easy.y", "b<hard.y")))
    assert found == [(GraphFault.NEVER_RUNS, "last", None)]


def test_what_is_behind_a_step_that_never_runs_never_runs() -> None:
    both = step("both", "a<easy.y", "b<hard.y")
    found = faults(graph(EASY, HARD, both, step("last", "x<both.y")))
    assert found == [(GraphFault.NEVER_RUNS, "both", None), (GraphFault.NEVER_RUNS, "last", None)]


@pytest.mark.parametrize(
    ("when", "never"),
    [
        ('request.l=="a" & request.l=="b"', True),
        ('request.l=="a" & request.l!="a"', True),
        ("request.l!=true & request.l!=false", True),
        ('request.l=="a" & request.l!="b"', False),
        ('request.l!="a" & request.l!="b"', False),
        ("request.l==1 & request.k==2", False),
    ],
)
def test_conditions_that_contradict_each_other_are_found(when: str, never: bool) -> None:
    found = faults(graph(step("last", "x<request.x", when=when)))
    assert found == ([(GraphFault.NEVER_RUNS, "last", None)] if never else [])


def test_an_alternative_behind_one_that_is_always_there_is_named() -> None:
    assert faults(graph(EASY, step("last", "x<request.x|easy.y"))) == [(GraphFault.NEVER_RUNS, "last", "x")]
    assert faults(graph(EASY, out=("y<request.x|easy.y",))) == [(GraphFault.NEVER_RUNS, None, "y")]


def test_each_alternative_is_checked_as_a_source() -> None:
    assert faults(graph(EASY, step("last", "x<easy.y|nowhere.y"))) == [(GraphFault.UNKNOWN_SOURCE, "last", "x")]
    contracts = {"m": Contract((), (spec("y"), spec("z", DType.BYTES))), "n": Contract((spec("x"),))}
    checked = graph(EASY, HARD, step("last", "x<easy.y|hard.z", model="n"), out=("y<last.y",))
    assert faults(checked, **contracts) == [(GraphFault.TYPES_DISAGREE, "last", "x")]


def test_an_output_of_two_types_is_named() -> None:
    contracts = {"m": Contract((), (spec("y"), spec("z", DType.BYTES)))}
    assert faults(graph(EASY, HARD, out=("y<easy.y|hard.z",)), **contracts) == [(GraphFault.TYPES_DISAGREE, None, "y")]


def test_a_cycle_through_an_alternative_is_found() -> None:
    found = faults(graph(step("a", "x<last.y|request.x"), step("last", "x<a.y")))
    assert {fault for fault, _, _ in found} == {GraphFault.CYCLE}


@pytest.mark.parametrize(
    ("constant", "declared", "fits"),
    [
        ("0.5", spec("k"), True),
        ("1", spec("k"), True),
        ("[1, 2]", spec("k", shape=(-1, 2)), True),
        ("[1, 2]", spec("k", shape=(-1, -1)), True),
        ("[1, 2]", spec("k", shape=(-1, 3)), False),
        ("1", spec("k", shape=(-1, 1)), False),
        ("0.5", spec("k", DType.INT64), False),
        ("2.0", spec("k", DType.INT64), True),
        ("256", spec("k", DType.UINT8), False),
        ("-1", spec("k", DType.UINT8), False),
        ("-128", spec("k", DType.INT8), True),
        ("true", spec("k"), False),
        ("true", spec("k", DType.BOOL), True),
        ('"a"', spec("k", DType.BYTES), True),
        ('"a"', spec("k"), False),
    ],
)
def test_a_constant_must_fit_one_row_of_the_declared_input(constant: str, declared: TensorSpec, fits: bool) -> None:
    found = faults(graph(step("last", "x<request.x", f"k={constant}")), m=Contract((spec("x"), declared)))
    assert found == ([] if fits else [(GraphFault.TYPES_DISAGREE, "last", "k")])


def test_a_number_for_an_input_that_is_not_declared_is_of_unknown_type() -> None:
    assert faults(graph(step("last", "x<request.x", "k=1"))) == [(GraphFault.TYPES_DISAGREE, "last", "k")]
    assert not faults(graph(step("last", "x<request.x", 'k="a"')))


@pytest.mark.parametrize(("value", "agrees"), [("true", True), ("1", False), ('"true"', False)])
def test_a_condition_compares_with_a_value_of_its_type(value: str, agrees: bool) -> None:
    contracts = {"m": Contract((), (spec("y", DType.BOOL),))}
    checked = graph(step("first", "x<request.x"), step("last", "x<request.x", when=f"first.y=={value}"))
    assert faults(checked, **contracts) == ([] if agrees else [(GraphFault.TYPES_DISAGREE, "last", "when")])


@st.composite
def acyclic(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 12))
    steps = []
    for number in range(count):
        sources = draw(st.lists(st.integers(-1, number - 1), min_size=1, max_size=3, unique=True))
        edges = [f"x{i}<{'request' if source < 0 else f's{source}'}.y" for i, source in enumerate(sources)]
        steps.append(step(f"s{number}", *edges))
    return graph(*draw(st.permutations(steps)), out=tuple(f"y{i}<s{i}.y" for i in range(count)))


@given(acyclic())
def test_in_the_order_every_step_comes_after_all_it_needs(checked: Graph) -> None:
    assert not faults(checked)
    done: set[str] = set()
    for found in topological_order(checked):
        assert predecessors(found) <= done
        done.add(found.name)
    assert done == {found.name for found in checked.steps}


@given(acyclic(), st.data())
def test_one_edge_backwards_is_always_found(checked: Graph, data: st.DataObject) -> None:
    order = topological_order(checked)
    early = data.draw(st.sampled_from(order))
    behind = [s for s in order if _needs(checked, s, early.name)]
    late = data.draw(st.sampled_from(behind))
    closed = early.model_copy(update={"inputs": (*early.inputs, StepInput(name="back", source=f"{late.name}.y"))})
    broken = checked.model_copy(update={"steps": tuple(closed if s.name == early.name else s for s in checked.steps)})
    assert (GraphFault.CYCLE, early.name, None) in faults(broken)


def _needs(checked: Graph, found: Step, name: str) -> bool:
    if found.name == name:
        return True
    steps = {candidate.name: candidate for candidate in checked.steps}
    return any(_needs(checked, steps[before], name) for before in predecessors(found))
