"""YAML → graph → YAML, for any graph that the schema allows."""

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.crds.builders import a_definition, a_pipeline

from podium_crds.parse import load_resources
from podium_crds.pipeline import InferencePipeline
from podium_crds.revision import graph_of

scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.text("ab1 :-#'\"true", max_size=8))
constants = st.one_of(
    scalars, st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=3)
)
names = st.text("abc_", min_size=1, max_size=3)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 6))
    sources = st.builds(
        lambda step, name: f"{'request' if step < 0 else f's{step}'}.{name}", st.integers(-1, count - 1), names
    )
    alternatives = st.fixed_dictionaries({"fromFirst": st.lists(sources, min_size=2, max_size=3)})
    edges = st.one_of(
        st.fixed_dictionaries({"from": sources}), alternatives, st.fixed_dictionaries({"value": constants})
    )
    comparison = st.one_of(
        st.fixed_dictionaries({"from": sources, "equals": scalars}),
        st.fixed_dictionaries({"from": sources, "notEquals": scalars}),
    )
    steps = []
    for number in range(count):
        fed = [{"name": f"x{i}", **edge} for i, edge in enumerate(draw(st.lists(edges, max_size=3)))]
        step: dict[str, Any] = {
            "name": f"s{number}",
            "model": "m",
            "inputs": [{"name": "x", "from": "request.x"}, *fed],
        }
        if draw(st.booleans()):
            step["when"] = draw(comparison)
            if further := draw(st.lists(comparison, max_size=2)):
                step["when"] = {**step["when"], "and": further}
        if draw(st.booleans()):
            step |= {"timeoutSeconds": draw(st.integers(1, 9)), "retries": draw(st.integers(0, 2))}
        steps.append(step)
    outputs = draw(st.lists(st.one_of(st.fixed_dictionaries({"from": sources}), alternatives), min_size=1, max_size=3))
    return {"steps": steps, "outputs": [{"name": f"o{number}", **edge} for number, edge in enumerate(outputs)]}


def read(graph: dict[str, Any]) -> InferencePipeline:
    document = a_pipeline(models=[{"name": "m", "inline": a_definition()}], **graph)
    (resource,) = load_resources(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    assert isinstance(resource, InferencePipeline)
    return resource


@settings(deadline=None)
@given(graphs())
def test_a_graph_written_as_yaml_is_the_graph_that_was_read(written: dict[str, Any]) -> None:
    first = graph_of(read(written).spec)
    again = graph_of(read(first.wire()).spec)
    assert again == first
    assert again.wire() == first.wire()
    assert [step["inputs"] for step in first.wire()["steps"]] == [step["inputs"] for step in written["steps"]]
    assert first.wire()["outputs"] == written["outputs"]
