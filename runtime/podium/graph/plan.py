"""A graph in the form that the executor walks, worked out once for each revision. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from podium_crds.assignment import Graph, Step
from podium_crds.graph import topological_order

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
    """Each after all that it needs."""
    dependents: Mapping[str, tuple[str, ...]]
    """Step → the steps that need it."""
    outputs: tuple[tuple[str, ValueRef], ...]
    readers: Mapping[ValueRef, int]
    """How many steps and outputs read a value: it is released after the last one."""
    read_of: Mapping[str, tuple[ValueRef, ...]]
    """Step → those of its values that anything reads."""
    uses: Mapping[str, int]
    """Step → how many steps need it, and one more where the answer carries a value of it. At zero it is not run."""
    decided_by: Mapping[str, tuple[str, ...]]
    """Step, or `request` → the steps whose `when` compares a value of it."""

    @classmethod
    def of(cls, graph: Graph) -> "GraphPlan":
        """The plan of a graph that podium_crds has checked."""
        steps = {step.name: _planned(step) for step in topological_order(graph)}
        outputs = tuple((output.name, ValueRef.parse(output.source)) for output in graph.outputs)
        readers: Counter[ValueRef] = Counter(ref for _, ref in outputs)
        for planned in steps.values():
            readers.update(_sources(planned))
        dependents = _dependents(steps)
        answered = {ref.producer for _, ref in outputs}
        return cls(
            steps,
            dependents,
            outputs,
            readers,
            read_of={name: tuple(ref for ref in readers if ref.producer == name) for name in steps},
            uses={name: len(dependents[name]) + (name in answered) for name in steps},
            decided_by={
                name: tuple(other for other, p in steps.items() if p.condition and p.condition.producer == name)
                for name in (REQUEST, *steps)
            },
        )

    @property
    def last(self) -> tuple[str, ...]:
        """Steps that no other step needs: those that may answer in chunks."""
        return tuple(name for name in self.steps if not self.dependents[name])


def _planned(step: Step) -> PlannedStep:
    inputs = tuple((source.name, ValueRef.parse(source.source)) for source in step.inputs)
    condition = ValueRef.parse(step.when.source) if step.when else None
    refs = [ref for _, ref in inputs] + ([condition] if condition else [])
    return PlannedStep(step, inputs, condition, frozenset(ref.producer for ref in refs) - {REQUEST})


def _sources(planned: PlannedStep) -> list[ValueRef]:
    return [ref for _, ref in planned.inputs] + ([planned.condition] if planned.condition else [])


def _dependents(steps: Mapping[str, PlannedStep]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {name: [] for name in steps}
    for name, planned in steps.items():
        for need in planned.needs:
            found[need].append(name)
    return {name: tuple(others) for name, others in found.items()}
