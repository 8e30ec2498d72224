"""A graph in the form that the executor walks, worked out once for each revision. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from podium_crds.assignment import Graph, Step

REQUEST = "request"


@dataclass(frozen=True, slots=True)
class ValueRef:
    """A value by the step that makes it (or `request`) and its name there."""

    producer: str
    name: str

    @classmethod
    def parse(cls, source: str) -> "ValueRef":
        """From `step.output` or `request.input`."""
        producer, _, name = source.partition(".")
        return cls(producer, name)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step with its sources resolved."""

    step: Step
    inputs: tuple[tuple[str, ValueRef], ...]
    condition: ValueRef | None
    needs: frozenset[str]
    """Steps that must have ended before this one starts."""


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """Steps by name, who waits for whom, and how often each value is read."""

    steps: Mapping[str, PlannedStep]
    dependents: Mapping[str, tuple[str, ...]]
    outputs: tuple[tuple[str, ValueRef], ...]
    readers: Mapping[ValueRef, int]
    """How many steps and outputs read a value: it is released after the last one."""

    @classmethod
    def of(cls, graph: Graph) -> "GraphPlan":
        """The plan of a graph that podium_crds has checked."""
        steps = {step.name: _planned(step) for step in graph.steps}
        outputs = tuple((output.name, ValueRef.parse(output.source)) for output in graph.outputs)
        readers: Counter[ValueRef] = Counter(ref for _, ref in outputs)
        for planned in steps.values():
            readers.update(_sources(planned))
        dependents = {name: tuple(other for other, planned in steps.items() if name in planned.needs) for name in steps}
        return cls(steps, dependents, outputs, readers)


def _planned(step: Step) -> PlannedStep:
    inputs = tuple((source.name, ValueRef.parse(source.source)) for source in step.inputs)
    condition = ValueRef.parse(step.when.source) if step.when else None
    refs = [ref for _, ref in inputs] + ([condition] if condition else [])
    return PlannedStep(step, inputs, condition, frozenset(ref.producer for ref in refs) - {REQUEST})


def _sources(planned: PlannedStep) -> list[ValueRef]:
    return [ref for _, ref in planned.inputs] + ([planned.condition] if planned.condition else [])
