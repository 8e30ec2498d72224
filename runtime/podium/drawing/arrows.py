"""What goes from step to step in a graph, in words: one arrow for each pair of nodes and kind of value."""

from dataclasses import dataclass

from podium_crds.assignment import Graph, Step, StepInput
from podium_crds.graph import comparisons, split_source

ANSWER = ""
"""Key of the node that the outputs go to: no step can have it. That of the request is `podium_crds.graph.REQUEST`."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """A value that goes from one node to another."""

    start: str
    end: str
    label: str
    decides: bool = False
    """True for the value of a condition."""


def arrows(graph: Graph) -> list[Arrow]:
    """Every edge, one for each pair of nodes and kind, with the names of its values."""
    found: dict[tuple[str, str, bool], list[str]] = {}
    for step in graph.steps:
        for edge in step.inputs:
            _add(found, edge, step.name)
        for comparison in comparisons(step):
            start, value = split_source(comparison.source)
            found.setdefault((start, step.name, True), []).append(value)
    for edge in graph.outputs:
        _add(found, edge, ANSWER)
    return [Arrow(start, end, ", ".join(names), decides) for (start, end, decides), names in found.items()]


def condition(step: Step) -> str:
    """`a.label = "hard" and b.flag ≠ true`; empty where the step always runs."""
    told = []
    for comparison in comparisons(step):
        value = comparison.equals if comparison.not_equals is None else comparison.not_equals
        shown = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else value
        told.append(f"{comparison.source} {'=' if comparison.not_equals is None else '≠'} {shown}")
    return " and ".join(told)


def _add(found: dict[tuple[str, str, bool], list[str]], edge: StepInput, end: str) -> None:
    for origin in edge.origins:
        start, value = split_source(origin)
        label = value if value == edge.name else f"{value} → {edge.name}"
        found.setdefault((start, end, False), []).append(label)
