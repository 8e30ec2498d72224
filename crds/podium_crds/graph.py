"""Checks of a pipeline's graph before anything is touched, and the order in which an executor may walk it.

Pure. The algorithm for the order is Kahn's (1962), stable in the order that the steps are written.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from podium_crds.assignment import Comparison, Graph, Step, StepInput
from podium_crds.constants import constant_mismatch, implied_dtype
from podium_crds.errors import Problem
from podium_crds.tensors import DType, TensorSpec, mismatch

REQUEST = "request"
"""The source of what the client sent: `request.text`. No step may have this name."""

MAX_MEMBERS = 16
MAX_STEPS = 64


class GraphFault(StrEnum):
    """The ways in which a graph can be wrong."""

    TOO_LARGE = "TooLarge"
    RESERVED_NAME = "ReservedName"
    TWO_STEPS_OF_ONE_NAME = "TwoStepsOfOneName"
    UNKNOWN_MEMBER = "UnknownMember"
    UNUSED_MEMBER = "UnusedMember"
    TWO_WRITERS = "TwoWriters"
    UNKNOWN_SOURCE = "UnknownSource"
    UNKNOWN_OUTPUT = "UnknownOutput"
    UNKNOWN_INPUT = "UnknownInput"
    INPUT_MISSING = "InputMissing"
    TYPES_DISAGREE = "TypesDisagree"
    CYCLE = "Cycle"
    NEVER_RUNS = "NeverRuns"
    NO_WAY_TO_OUTPUT = "NoWayToOutput"


@dataclass(frozen=True, slots=True)
class GraphProblem:
    """One fault, and the step and edge it is at. `step` is None at the pipeline's own outputs and members."""

    fault: GraphFault
    step: str | None
    edge: str | None
    """Name of the input or output; None where the step as a whole is wrong."""
    message: str

    def problem(self) -> Problem:
        """The same with a path into the resource."""
        if self.step is None:
            return Problem(f"spec.outputs[{self.edge}]" if self.edge else "spec.models", self.message)
        edge = f".inputs[{self.edge}]" if self.edge else ""
        return Problem(f"spec.steps[{self.step}]{edge}", self.message)


@dataclass(frozen=True, slots=True)
class Contract:
    """What a member takes and gives; empty: not declared, and nothing is checked on that side."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def input(self, name: str) -> TensorSpec | None:
        """The declared input of that name, or None."""
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        """The declared output of that name, or None."""
        return next((spec for spec in self.outputs if spec.name == name), None)


def split_source(source: str) -> tuple[str, str]:
    """`tokenize.input_ids` → (`tokenize`, `input_ids`). Step names hold no dot; tensor names may."""
    step, _, name = source.partition(".")
    return step, name


def predecessors(step: Step) -> frozenset[str]:
    """Names of the steps whose values this one needs, its condition included."""
    sources = [origin for edge in step.inputs for origin in edge.origins]
    sources += [comparison.source for comparison in comparisons(step)]
    return frozenset(split_source(source)[0] for source in sources) - {REQUEST}


def comparisons(step: Step) -> tuple[Comparison, ...]:
    """What must hold for the step to run; empty: it always does."""
    return step.when.comparisons if step.when else ()


def topological_order(graph: Graph) -> tuple[Step, ...]:
    """The steps so that each comes after all it needs; steps on or behind a cycle are left out."""
    waiting = list(graph.steps)
    done: set[str] = set()
    order: list[Step] = []
    while ready := [step for step in waiting if predecessors(step) <= done]:
        order.extend(ready)
        done.update(step.name for step in ready)
        waiting = [step for step in waiting if step.name not in done]
    return tuple(order)


def check_graph(graph: Graph, members: Mapping[str, Contract]) -> tuple[GraphProblem, ...]:
    """Every fault of the graph, in the order of the steps; empty: it can be run."""
    faults = (*_sizes(graph, members), *_names(graph, members))
    if faults:
        return faults
    return (
        *_edges(graph, members),
        *_outputs(graph, members),
        *_request_agrees(graph, members),
        *_cycles(graph),
        *_dead_ends(graph),
        *_never(graph),
    )


def _sizes(graph: Graph, members: Mapping[str, Contract]) -> Iterator[GraphProblem]:
    if len(members) > MAX_MEMBERS:
        yield GraphProblem(GraphFault.TOO_LARGE, None, None, f"{len(members)} members, the limit is {MAX_MEMBERS}")
    if len(graph.steps) > MAX_STEPS:
        message = f"{len(graph.steps)} steps, the limit is {MAX_STEPS}"
        yield GraphProblem(GraphFault.TOO_LARGE, graph.steps[MAX_STEPS].name, None, message)


def _names(graph: Graph, members: Mapping[str, Contract]) -> Iterator[GraphProblem]:
    counts = Counter(step.name for step in graph.steps)
    for step in graph.steps:
        if step.name == REQUEST:
            message = f"{REQUEST} means what the client sent: choose another name"
            yield GraphProblem(GraphFault.RESERVED_NAME, step.name, None, message)
        if counts[step.name] > 1:
            message = "the name is used by more than one step: rename one of them"
            yield GraphProblem(GraphFault.TWO_STEPS_OF_ONE_NAME, step.name, None, message)
        if step.model not in members:
            message = f"there is no member {step.model}: add it under models, or write one of {_listed(members)}"
            yield GraphProblem(GraphFault.UNKNOWN_MEMBER, step.name, None, message)
    for unused in sorted(set(members) - {step.model for step in graph.steps}):
        message = f"member {unused} is called by no step: remove it, or add a step with model: {unused}"
        yield GraphProblem(GraphFault.UNUSED_MEMBER, None, None, message)


def _edges(graph: Graph, members: Mapping[str, Contract]) -> Iterator[GraphProblem]:
    for step in graph.steps:
        contract = members[step.model]
        counts = Counter(edge.name for edge in step.inputs)
        for edge in step.inputs:
            if counts[edge.name] > 1:
                message = "has more than one writer: keep one of them"
                yield GraphProblem(GraphFault.TWO_WRITERS, step.name, edge.name, message)
            yield from _edge(graph, members, step, edge)
        for spec in contract.inputs:
            if not spec.optional and spec.name not in counts:
                message = f"member {step.model} needs it: add {{name: {spec.name}, from: …}}"
                yield GraphProblem(GraphFault.INPUT_MISSING, step.name, spec.name, message)
        for comparison in comparisons(step):
            yield from _condition(graph, members, step, comparison)


def _edge(graph: Graph, members: Mapping[str, Contract], step: Step, edge: StepInput) -> Iterator[GraphProblem]:
    contract = members[step.model]
    consumed = contract.input(edge.name)
    if contract.inputs and consumed is None:
        known = _listed(spec.name for spec in contract.inputs)
        message = f"member {step.model} has no such input: write one of {known}"
        yield GraphProblem(GraphFault.UNKNOWN_INPUT, step.name, edge.name, message)
    if not edge.origins:
        yield from _constant(step, edge, consumed)
    for origin in edge.origins:
        faults = list(_source(graph, members, step.name, edge.name, origin))
        yield from faults
        produced = None if faults else _produced(graph, members, origin)
        if produced is not None and consumed is not None and (difference := mismatch(produced, consumed)):
            message = f"{origin} cannot feed it: {difference}"
            yield GraphProblem(GraphFault.TYPES_DISAGREE, step.name, edge.name, message)


def _constant(step: Step, edge: StepInput, consumed: TensorSpec | None) -> Iterator[GraphProblem]:
    if consumed is not None and (difference := constant_mismatch(edge.value, consumed)):
        message = f"the constant cannot feed it: {difference}"
        yield GraphProblem(GraphFault.TYPES_DISAGREE, step.name, edge.name, message)
    if consumed is None and implied_dtype(edge.value) is None:
        message = f"is a number of unknown type: declare {edge.name} under inputs of member {step.model}"
        yield GraphProblem(GraphFault.TYPES_DISAGREE, step.name, edge.name, message)


def _condition(
    graph: Graph, members: Mapping[str, Contract], step: Step, comparison: Comparison
) -> Iterator[GraphProblem]:
    faults = list(_source(graph, members, step.name, "when", comparison.source))
    yield from faults
    produced = None if faults else _produced(graph, members, comparison.source)
    value = comparison.equals if comparison.not_equals is None else comparison.not_equals
    if produced is None or value is None:
        return
    kind = {DType.BOOL: bool, DType.BYTES: str}.get(produced.dtype, int)
    if type(value) is not kind:
        expected = {bool: "true or false", str: "a string", int: "an integer"}[kind]
        message = f"{comparison.source} is {produced.dtype}: compare it with {expected}"
        yield GraphProblem(GraphFault.TYPES_DISAGREE, step.name, "when", message)


def _source(
    graph: Graph, members: Mapping[str, Contract], step: str | None, edge: str, source: str
) -> Iterator[GraphProblem]:
    origin, name = split_source(source)
    if origin == REQUEST:
        return
    producer = next((candidate for candidate in graph.steps if candidate.name == origin), None)
    if producer is None:
        message = f"comes from {source}, but there is no step {origin}: write request.<name> or <step>.<output>"
        yield GraphProblem(GraphFault.UNKNOWN_SOURCE, step, edge, message)
        return
    outputs = members[producer.model].outputs
    if outputs and members[producer.model].output(name) is None:
        known = _listed(f"{origin}.{spec.name}" for spec in outputs)
        message = f"comes from {source}, but member {producer.model} has no such output: write one of {known}"
        yield GraphProblem(GraphFault.UNKNOWN_OUTPUT, step, edge, message)


def _produced(graph: Graph, members: Mapping[str, Contract], source: str) -> TensorSpec | None:
    origin, name = split_source(source)
    producer = next((step for step in graph.steps if step.name == origin), None)
    return members[producer.model].output(name) if producer else None


def _outputs(graph: Graph, members: Mapping[str, Contract]) -> Iterator[GraphProblem]:
    counts = Counter(edge.name for edge in graph.outputs)
    for edge in graph.outputs:
        if counts[edge.name] > 1:
            message = "is given more than once: rename one of them"
            yield GraphProblem(GraphFault.TWO_WRITERS, None, edge.name, message)
        faults = [fault for origin in edge.origins for fault in _source(graph, members, None, edge.name, origin)]
        yield from faults
        if not faults:
            yield from _alternatives_agree(graph, members, edge)


def _alternatives_agree(graph: Graph, members: Mapping[str, Contract], edge: StepInput) -> Iterator[GraphProblem]:
    """Whichever of them an output comes from, clients get one type."""
    known = [(origin, spec) for origin in edge.origins if (spec := _produced(graph, members, origin)) is not None]
    for origin, spec in known[1:]:
        if difference := mismatch(known[0][1], spec):
            message = f"is either {known[0][0]} or {origin}, which differ: {difference}"
            yield GraphProblem(GraphFault.TYPES_DISAGREE, None, edge.name, message)


def _request_agrees(graph: Graph, members: Mapping[str, Contract]) -> Iterator[GraphProblem]:
    """One value of the request may feed several steps: all of them must take the same."""
    first: dict[str, tuple[str, TensorSpec]] = {}
    for step in graph.steps:
        for edge in step.inputs:
            spec = members[step.model].input(edge.name)
            asked = [origin for origin in edge.origins if split_source(origin)[0] == REQUEST]
            for origin in asked if spec is not None else ():
                assert spec is not None
                where, known = first.setdefault(origin, (f"{step.name}.{edge.name}", spec))
                if difference := mismatch(known, spec):
                    message = f"{origin} also feeds {where}, which takes something else: {difference}"
                    yield GraphProblem(GraphFault.TYPES_DISAGREE, step.name, edge.name, message)


def _cycles(graph: Graph) -> Iterator[GraphProblem]:
    names = {step.name for step in graph.steps}
    ordered = {step.name for step in topological_order(graph)}
    stuck = [step for step in graph.steps if step.name not in ordered and predecessors(step) <= names]
    for step in stuck:
        waits_for = _listed(sorted(predecessors(step) - ordered))
        message = f"can never start: it is on or behind a cycle, and waits for {waits_for}"
        yield GraphProblem(GraphFault.CYCLE, step.name, None, message)


def _dead_ends(graph: Graph) -> Iterator[GraphProblem]:
    steps = {step.name: step for step in graph.steps}
    pending = [split_source(origin)[0] for edge in graph.outputs for origin in edge.origins]
    used: set[str] = set()
    while pending:
        name = pending.pop()
        if name in steps and name not in used:
            used.add(name)
            pending.extend(predecessors(steps[name]))
    for step in graph.steps:
        if step.name not in used:
            message = "no output needs it: use its result under outputs or in another step, or remove it"
            yield GraphProblem(GraphFault.NO_WAY_TO_OUTPUT, step.name, None, message)


Test = tuple[str, bool, type, str | int | bool]
"""Source, whether it must equal the value or must not, and the value with its type (True is no 1)."""


def guards(graph: Graph) -> dict[str, frozenset[Test]]:
    """What certainly holds where a step runs, by step: its own conditions, and those of the steps it needs values of.

    Steps on a cycle, or behind one, are left out.
    """
    found: dict[str, frozenset[Test]] = {}
    for step in topological_order(graph):
        own = {_test(comparison) for comparison in comparisons(step)}
        for comparison in comparisons(step):
            own |= _guards_of(comparison.source, found)
        for edge in step.inputs:
            alternatives = [_guards_of(origin, found) for origin in edge.origins]
            own |= frozenset.intersection(*alternatives) if alternatives else frozenset()
        found[step.name] = frozenset(own)
    return found


def _guards_of(source: str, known: Mapping[str, frozenset[Test]]) -> frozenset[Test]:
    return known.get(split_source(source)[0], frozenset())


def _test(comparison: Comparison) -> Test:
    value = comparison.equals if comparison.not_equals is None else comparison.not_equals
    assert value is not None, "checked where it was read"
    return comparison.source, comparison.not_equals is None, type(value), value


def _never(graph: Graph) -> Iterator[GraphProblem]:
    """Steps that no request can reach, and alternatives that no value can be taken from."""
    known = guards(graph)
    if any(step.name not in known for step in graph.steps):
        return  # a cycle, which is told by itself
    for step in graph.steps:
        held = known[step.name]
        if source := _contradiction(held):
            message = (
                f"can never run: what it needs asks for two different values of {source}; join branches with fromFirst"
            )
            yield GraphProblem(GraphFault.NEVER_RUNS, step.name, None, message)
            continue
        for edge in step.inputs:
            yield from _unreachable(step.name, edge, held, known)
    for edge in graph.outputs:
        yield from _unreachable(None, edge, frozenset(), known)


def _contradiction(held: frozenset[Test]) -> str | None:
    """The source that would have to have two values at once, or None."""
    wanted: dict[str, tuple[type, object]] = {}
    for source, equals, kind, value in held:
        if equals and wanted.setdefault(source, (kind, value)) != (kind, value):
            return source
    refused = {(source, kind, value) for source, equals, kind, value in held if not equals}
    for source, (kind, only) in wanted.items():
        if (source, kind, only) in refused:
            return source
    both = {source for source, kind, value in refused if kind is bool and (source, bool, not value) in refused}
    return min(both, default=None)


def _unreachable(
    step: str | None, edge: StepInput, held: frozenset[Test], known: Mapping[str, frozenset[Test]]
) -> Iterator[GraphProblem]:
    for origin, later in zip(edge.origins, edge.origins[1:], strict=False):
        if _guards_of(origin, known) <= held:
            message = f"{origin} is always there, so that {later} is never used: put {origin} last, or remove {later}"
            yield GraphProblem(GraphFault.NEVER_RUNS, step, edge.name, message)
            return


def _listed(names: Iterator[str] | Mapping[str, object] | list[str]) -> str:
    return ", ".join(names) or "(none)"
