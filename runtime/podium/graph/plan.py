"""A graph in the form that the executor walks, worked out once for each revision. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from podium.graph.constants import Constant
from podium_crds.assignment import Comparison, Graph, Member, Step, StepInput
from podium_crds.graph import comparisons, topological_order
from podium_crds.tensors import DType

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
    inputs: tuple[tuple[str, tuple[ValueRef, ...]], ...]
    """By name: where the value may come from, of which the first that is there counts."""
    constants: tuple[tuple[str, Constant], ...]
    conditions: tuple[tuple[ValueRef, Comparison], ...]
    """All of them must hold."""
    needs: frozenset[str]
    """Steps that must have ended, or been skipped, before this one starts."""

    @property
    def sources(self) -> tuple[ValueRef, ...]:
        """Every value that the step reads, conditions included, as often as it reads it."""
        return (*(ref for _, refs in self.inputs for ref in refs), *(ref for ref, _ in self.conditions))

    def lacks(self, skipped: Collection[str]) -> bool:
        """Whether it cannot run without these steps: a condition, or all sources of one input, come from them."""
        return any(ref.producer in skipped for ref, _ in self.conditions) or any(
            all(ref.producer in skipped for ref in refs) for _, refs in self.inputs
        )


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """Steps by name, who waits for whom, and how often each value is read."""

    steps: Mapping[str, PlannedStep]
    """Each after all that it needs."""
    dependents: Mapping[str, tuple[str, ...]]
    """Step → the steps that need it."""
    outputs: tuple[tuple[str, tuple[ValueRef, ...]], ...]
    readers: Mapping[ValueRef, int]
    """How many steps and outputs read a value: it is released after the last one."""
    read_of: Mapping[str, tuple[ValueRef, ...]]
    """Step → those of its values that anything reads."""
    uses: Mapping[str, int]
    """Step → how many steps need it, and one more where the answer carries a value of it. At zero it is not run."""
    decided_by: Mapping[str, tuple[str, ...]]
    """Step, or `request` → the steps whose `when` compares a value of it."""

    @classmethod
    def of(cls, graph: Graph, members: Iterable[Member] = ()) -> "GraphPlan":
        """The plan of a graph that podium_crds has checked. `members` declare the types of constants."""
        declared = {member.name: {spec.name: spec.dtype for spec in member.inputs} for member in members}
        steps = {step.name: _planned(step, declared.get(step.model, {})) for step in topological_order(graph)}
        outputs = tuple((output.name, _refs(output)) for output in graph.outputs)
        readers: Counter[ValueRef] = Counter(ref for _, refs in outputs for ref in refs)
        for planned in steps.values():
            readers.update(planned.sources)
        dependents = _dependents(steps)
        answered = {ref.producer for _, refs in outputs for ref in refs}
        return cls(
            steps,
            dependents,
            outputs,
            readers,
            read_of={name: tuple(ref for ref in readers if ref.producer == name) for name in steps},
            uses={name: len(dependents[name]) + (name in answered) for name in steps},
            decided_by={
                name: tuple(other for other, p in steps.items() if name in {ref.producer for ref, _ in p.conditions})
                for name in (REQUEST, *steps)
            },
        )

    @property
    def last(self) -> tuple[str, ...]:
        """Steps that no other step needs: those that may answer in chunks."""
        return tuple(name for name in self.steps if not self.dependents[name])


def _planned(step: Step, declared: Mapping[str, DType]) -> PlannedStep:
    inputs = tuple((edge.name, _refs(edge)) for edge in step.inputs if edge.origins)
    constants = tuple((edge.name, Constant.of(edge, declared)) for edge in step.inputs if not edge.origins)
    conditions = tuple((ValueRef.parse(comparison.source), comparison) for comparison in comparisons(step))
    planned = PlannedStep(step, inputs, constants, conditions, frozenset())
    return replace(planned, needs=frozenset(ref.producer for ref in planned.sources) - {REQUEST})


def _refs(edge: StepInput) -> tuple[ValueRef, ...]:
    return tuple(ValueRef.parse(origin) for origin in edge.origins)


def _dependents(steps: Mapping[str, PlannedStep]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {name: [] for name in steps}
    for name, planned in steps.items():
        for need in planned.needs:
            found[need].append(name)
    return {name: tuple(others) for name, others in found.items()}
