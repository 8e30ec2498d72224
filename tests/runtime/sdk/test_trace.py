"""What a traced function becomes, and what cannot be traced. Checked as resources by the same code as everywhere."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from podium import Model, TraceError, cond, model, parallel, trace
from podium.cli.trace import yaml_of
from podium.sdk.errors import NotTracing
from podium.sdk.trace import Pipeline


class Echo(Model):
    """A class that a worker could import."""


def tensors(*names: str, dtype: str = "FP32") -> list[dict[str, Any]]:
    return [{"name": name, "dtype": dtype, "shape": [-1]} for name in names]


inc = model("inc", Echo, inputs=tensors("x"), outputs=tensors("y"))
add = model("add", Echo, inputs=tensors("a", "b"), outputs=tensors("y"))
judge = model(
    "judge", Echo, inputs=tensors("x"), outputs=[*tensors("easy", dtype="BOOL"), *tensors("label", dtype="BYTES")]
)
loose = model("loose", Echo)


def steps(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """Steps by name, after the checks that `podium validate` makes."""
    yaml_of(pipeline)
    return {step["name"]: dict(step) for step in pipeline.steps}


def inputs(pipeline: Pipeline, step: str) -> dict[str, Any]:
    edges = steps(pipeline)[step]["inputs"]
    return {edge["name"]: edge.get("from", edge.get("fromFirst", edge.get("value"))) for edge in edges}


def outputs(pipeline: Pipeline) -> dict[str, Any]:
    yaml_of(pipeline)
    return {edge["name"]: edge.get("from", edge.get("fromFirst")) for edge in pipeline.outputs}


def test_constants_and_fields_of_the_request_arrive_under_the_names_that_the_model_gave_them() -> None:
    """Nerva lost constants and renamed fields, and handed a first model the whole request."""
    pipeline = trace(lambda request: add(a=request["left"], b=2.5), name="p")
    assert inputs(pipeline, "add") == {"a": "request.left", "b": 2.5}


def test_what_the_function_returns_is_the_answer() -> None:
    """Nerva answered with whichever step sorted last."""

    def both(request: Any) -> dict[str, Any]:
        first = inc(x=request["x"])
        inc(x=first["y"])
        return {"early": first["y"], "sent": request["x"]}

    with pytest.raises(TraceError, match="nothing uses what step inc-2 returns: return it, hand it on, or remove"):
        trace(both)

    def early(request: Any) -> dict[str, Any]:
        first = inc(x=request["x"])
        return {"early": first["y"], "late": {"one": inc(x=first)["y"]}, "sent": request["x"]}

    assert outputs(trace(early)) == {"early": "inc.y", "late.one": "inc-2.y", "sent": "request.x"}


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (lambda step: step, {"easy": "judge.easy", "label": "judge.label"}),
        (lambda step: step["label"], {"label": "judge.label"}),
        (lambda step: (step["label"], step["easy"]), {"output_0": "judge.label", "output_1": "judge.easy"}),
        (lambda step: {"a": (step["label"],)}, {"a.0": "judge.label"}),
        (lambda step: {"a": step}, {"a.easy": "judge.easy", "a.label": "judge.label"}),
    ],
)
def test_any_shape_of_return_value_is_an_answer(returned: Callable[[Any], Any], expected: dict[str, str]) -> None:
    assert outputs(trace(lambda request: returned(judge(x=request["x"])), name="p")) == expected


def test_a_condition_looks_at_its_own_field() -> None:
    """Nerva looked at the whole request, which is always true."""
    pipeline = trace(lambda r: cond(r["flag"], lambda: inc(x=r["x"]), lambda: add(a=r["x"], b=1)), name="p")
    found = steps(pipeline)
    assert found["inc"]["when"] == {"from": "request.flag", "equals": True}
    assert found["add"]["when"] == {"from": "request.flag", "equals": False}
    assert outputs(pipeline) == {"y": ["inc.y", "add.y"]}


def test_branches_use_values_from_outside() -> None:
    """Nerva refused them."""

    def cascade(x: Any, z: Any) -> Any:
        first = judge(x=x)
        return cond(first["label"] == "hard", lambda: add(a=x, b=z)["y"], lambda: x)

    pipeline = trace(cascade)
    assert steps(pipeline)["add"]["when"] == {"from": "judge.label", "equals": "hard"}
    assert inputs(pipeline, "add") == {"a": "request.x", "b": "request.z"}
    assert outputs(pipeline) == {"y": ["add.y", "request.x"]}


def test_branches_within_branches_keep_both_conditions() -> None:
    def nested(request: Any) -> Any:
        seen = judge(x=request["x"])
        inner = lambda: cond(seen["easy"], lambda: inc(x=request["x"]), lambda: add(a=request["x"], b=1))  # noqa: E731
        return cond(seen["label"] != "odd", inner, lambda: inc(x=request["z"]))

    pipeline = trace(nested)
    found = steps(pipeline)
    outer = {"from": "judge.label", "notEquals": "odd"}
    assert found["inc"]["when"] == {**outer, "and": [{"from": "judge.easy", "equals": True}]}
    assert found["add"]["when"] == {**outer, "and": [{"from": "judge.easy", "equals": False}]}
    assert found["inc-2"]["when"] == {"from": "judge.label", "equals": "odd"}
    assert outputs(pipeline) == {"y": ["inc.y", "add.y", "inc-2.y"]}


def test_a_step_that_reads_from_its_branch_needs_no_condition_of_its_own() -> None:
    def chain(r: Any) -> Any:
        return cond(r["flag"], lambda: inc(x=inc(x=r["x"])), lambda: add(a=r["x"], b=1))

    found = steps(trace(chain))
    assert "when" in found["inc"]
    assert "when" not in found["inc-2"]


def test_parallel_branches_by_position_and_by_name() -> None:
    def both(r: Any) -> Any:
        left, right = parallel(lambda: inc(x=r["x"]), lambda: inc(x=r["z"]))
        named = parallel(left=lambda: inc(x=left), right=lambda: inc(x=right))
        return {"sum": add(a=named["left"], b=named["right"])["y"], **named}

    pipeline = trace(both)
    assert inputs(pipeline, "add") == {"a": "inc-3.y", "b": "inc-4.y"}
    assert outputs(pipeline) == {"sum": "add.y", "left": "inc-3.y", "right": "inc-4.y"}


def test_parallel_within_cond_within_parallel() -> None:
    def deep(r: Any) -> Any:
        inner = lambda: parallel(lambda: inc(x=r["x"])["y"], lambda: inc(x=r["z"])["y"])  # noqa: E731
        outer = lambda: cond(r["flag"], inner, lambda: (r["x"], r["z"]))  # noqa: E731
        (a, b), other = parallel(outer, lambda: inc(x=r["x"]))
        return {"a": a, "b": b, "c": other["y"]}

    assert outputs(trace(deep)) == {"a": ["inc.y", "request.x"], "b": ["inc-2.y", "request.z"], "c": "inc-3.y"}


def test_what_a_step_returns_can_be_handed_on_whole() -> None:
    pair = model("pair", Echo, inputs=tensors("x"), outputs=tensors("a", "b"))
    pipeline = trace(lambda r: add(pair(r)), name="p")
    assert inputs(pipeline, "pair") == {"x": "request.x"}
    assert inputs(pipeline, "add") == {"a": "pair.a", "b": "pair.b"}


def test_a_traced_function_is_part_of_another() -> None:
    @trace
    def twice(x: Any) -> Any:
        return inc(x=inc(x=x))

    assert outputs(trace(lambda r: add(a=twice(r["x"]), b=1), name="p")) == {"y": "add.y"}


def test_limits_and_names_of_a_step() -> None:
    found = steps(trace(lambda x: inc.step("late", timeout_seconds=5, retries=2)(x=x), name="p", replicas=2))
    assert (found["late"]["timeoutSeconds"], found["late"]["retries"]) == (5, 2)


def test_a_model_outside_a_trace_says_where_it_belongs() -> None:
    with pytest.raises(NotTracing, match="podium trace module:function"):
        inc(x=1)
    assert issubclass(NotTracing, RuntimeError)


def test_traces_in_several_threads_do_not_meet() -> None:
    found: list[Pipeline] = []
    inside = threading.Barrier(4)

    def slow(r: Any) -> Any:
        first = inc(x=r["x"])
        inside.wait(10)
        return inc(x=first)

    threads = [threading.Thread(target=lambda: found.append(trace(slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [[step["name"] for step in each.steps] for each in found] == [["inc", "inc-2"]] * 4


left_behind: list[Any] = []


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "truth": (lambda r: inc(x=r["x"]) if r["x"] else r["x"], r"write cond\("),
    "truth of a comparison": (lambda r: inc(x=r["x"]) if r["x"] == 1 else r["x"], r"give it to cond"),
    "and": (lambda r: cond(r["x"] == 1 and r["z"] == 2, lambda: inc(x=r["x"])), "put one cond into the branch"),
    "iteration": (lambda r: [inc(x=each) for each in r["x"]], "cannot be looped over"),
    "unpacking": (lambda r: dict(zip("ab", judge(x=r["x"]), strict=True)), "cannot be looped over or unpacked"),
    "length": (lambda r: inc(x=len(r["x"])), "let a model compute it"),
    "arithmetic": (lambda r: inc(x=r["x"] + 1), "compute it in a model"),
    "arithmetic from the right": (lambda r: inc(x=1 - r["x"]), "compute it in a model"),
    "order": (lambda r: cond(r["x"] > 1, lambda: inc(x=r["x"])), "let a model return true or false"),
    "number": (lambda r: inc(x=float(r["x"])), "hand the value on"),
    "text": (lambda r: loose(x=r["x"], s=f"hi {r['x']}"), "build strings in a model"),
    "membership": (lambda r: inc(x=r["x"]) if 1 in r["x"] else r["x"], "let a model look"),
    "attribute": (lambda r: inc(x=r.x), r'as value\["x"\]'),
    "assignment": (lambda r: r.__setitem__("x", 1), "cannot be changed"),
    "field of a tensor": (lambda r: inc(x=r["x"]["y"]), "has no fields"),
    "comparison with a value": (lambda r: cond(r["x"] == 1.5, lambda: inc(x=r["x"])), "got float"),
    "unknown output": (lambda r: inc(x=r["x"])["z"], "inc has no value 'z': write one of y"),
    "unknown input": (lambda r: inc(z=r["x"]), "inc has no input 'z': write one of x"),
    "one of several": (lambda r: inc(x=judge(x=r["x"])), "one of easy, label"),
    "undeclared whole": (lambda r: inc(x=loose(x=r["x"])), "where the model is declared"),
    "constants alone": (lambda r: inc(x=1), "constants alone"),
    "no inputs": (lambda r: inc(), "without inputs"),
    "twice": (lambda r: inc(r["x"], x=r["x"]), "given x twice"),
    "an object": (lambda r: loose(x=r["x"], o=object()), "is a object"),
    "bytes": (lambda r: loose(x=r["x"], o=b""), "is a bytes"),
    "comparison as input": (lambda r: loose(x=r["x"] == 1), "only cond takes"),
    "known predicate": (lambda r: cond(True, lambda: inc(x=r["x"])), "write an ordinary if"),
    "branch already called": (lambda r: cond(r["f"], inc(x=r["x"]), inc(x=r["x"])), "write lambda"),
    "branch without value": (lambda r: cond(r["f"], lambda: None, lambda: inc(x=r["x"])), "returns nothing"),
    "nothing to choose by": (lambda r: cond(r["f"], lambda: r["x"], lambda: r["z"]), "nothing runs that could choose"),
    "branches of other names": (
        lambda r: cond(r["f"], lambda: {"a": inc(x=r["x"])["y"]}, lambda: {"b": inc(x=r["x"])["y"]}),
        "only one branch of cond returns 'a'",
    ),
    "branches of other lengths": (
        lambda r: cond(r["f"], lambda: (r["x"],), lambda: (r["x"], r["z"])),
        "as many in each",
    ),
    "a joined predicate": (
        lambda r: cond(cond(r["f"], lambda: inc(x=r["x"]), lambda: inc(x=r["z"])), lambda: inc(x=r["x"])),
        "comes from either branch",
    ),
    "empty parallel": (lambda r: parallel(), "parallel takes branches"),
    "mixed parallel": (lambda r: parallel(lambda: r["x"], a=lambda: r["x"]), "parallel takes branches"),
    "parallel of values": (lambda r: parallel(inc(x=r["x"])), "write lambda"),
    "no answer": (lambda r: None, "returns a NoneType"),
    "an empty answer": (lambda r: {}, "returns nothing"),
    "a constant as answer": (lambda r: {"a": 1}, "returns a int as a"),
    "the request as a tensor and a mapping": (lambda r: {"a": r["x"], "b": r}, "is the request"),
    "a trace within": (lambda r: trace(lambda q: q["x"]).outputs and r["x"], "traced within another"),
    "another trace's value": (lambda r: loose(x=left_behind[0]), "of another trace"),
    "two models of one name": (lambda r: (inc(x=r["x"]), model("inc", ref="other")(x=r["x"])), "two different models"),
    "two steps of one name": (lambda r: (inc.step("a")(x=r["x"]), inc.step("a")(x=r["x"])), "two steps are called a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_graph_cannot_express_is_refused_with_what_to_write_instead(case: str) -> None:
    left_behind.clear()
    trace(lambda r: left_behind.append(r["x"]) or r["x"], name="earlier")
    function, message = REFUSED[case]
    with pytest.raises(TraceError, match=message):
        trace(function, name="p")


def test_functions_that_no_request_could_call_are_refused() -> None:
    async def later(r: Any) -> Any:
        return r["x"]

    for function, message in (
        (lambda: 1, "has no parameter"),
        (lambda *values: values, "write out the parameters"),
        (later, "write an ordinary def"),
        (lambda a, b: inc(x=a), "nothing uses parameter b"),
        (lambda a, b: inc(x=a["x"]), "is one tensor of the request"),
    ):
        with pytest.raises(TraceError, match=message):
            trace(function, name="p")


def test_models_that_no_worker_could_load_are_refused() -> None:
    class Local(Model):
        pass

    for arguments, message in (
        ({"code": Local}, "cannot be imported by a worker"),
        ({"code": object}, "expected a subclass"),
        ({}, "nothing to load"),
        ({"ref": "other", "instances": 2}, "remove the other arguments"),
    ):
        with pytest.raises(TypeError, match=message):
            model("m", **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="by name, as a string"):
        trace(lambda r: r[0], name="p")
