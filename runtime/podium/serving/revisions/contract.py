"""What a revision takes and returns, worked out once from its members (and, for a pipeline, its graph). Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

from podium.errors import InvalidInput
from podium.graph.plan import REQUEST, ValueRef
from podium.ipc.tensor import Tensor
from podium.serving.revisions.packing import Packing
from podium_crds.assignment import Graph, Member, Revision
from podium_crds.graph import comparisons
from podium_crds.tensors import TensorSpec

Layout = tuple[str | int, ...]
"""Name, dtype and sizes of one tensor, as a request gives them."""
LAYOUTS_KEPT = 256
"""Layouts of one contract that are remembered: clients use few, and an open dimension has no end of them."""

Specs = Mapping[str, TensorSpec | None]
"""Names in order; None where the name is known and nothing is declared about it."""


@dataclass(frozen=True)
class Contract:
    """Named inputs and outputs. Empty where nothing is declared: then the model itself judges its inputs."""

    inputs: Specs
    outputs: Specs

    @classmethod
    def of(cls, revision: Revision) -> "Contract":
        """The contract that clients of a revision see."""
        if revision.graph is not None:
            return _of_graph(revision.graph, {member.name: member for member in revision.members})
        return cls.of_member(revision.members[0])

    @classmethod
    def of_member(cls, member: Member) -> "Contract":
        """The contract of one member alone."""
        return cls({spec.name: spec for spec in member.inputs}, {spec.name: spec for spec in member.outputs})

    def of_inputs(self, names: Iterable[str]) -> "Contract":
        """That of some inputs alone."""
        return Contract({name: self.inputs[name] for name in names if name in self.inputs}, {})

    @cached_property
    def required(self) -> frozenset[str]:
        """Inputs that a request cannot leave out."""
        return frozenset(name for name, spec in self.inputs.items() if spec is None or not spec.optional)

    @cached_property
    def layouts(self) -> dict[Layout, Packing]:
        """Layouts of tensors that were found to agree with the declared inputs: what is in here need not be checked
        again. Filled by who checks, with at most LAYOUTS_KEPT."""
        return {}

    def check_names(self, names: Iterable[str]) -> None:
        """Raises InvalidInput for an input that is not declared, or one that is missing."""
        if not self.inputs:
            return
        given = set(names)
        if unknown := sorted(given - self.inputs.keys()):
            raise InvalidInput(f"unknown input {unknown[0]!r}; expected {self._expected()}")
        if missing := [name for name in self.inputs if name in self.required and name not in given]:
            raise InvalidInput(f"input {missing[0]!r} is missing; expected {self._expected()}")

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises InvalidInput where tensors do not match the declared inputs; says what was expected."""
        self.check_names(tensors)
        for name, tensor in tensors.items():
            if spec := self.inputs.get(name):
                problem = disagreement(spec, tensor)
                if problem:
                    raise InvalidInput(f"input {name!r} has {problem}; expected {described(spec)}")

    def check_outputs(self, wanted: Iterable[str]) -> None:
        """Raises InvalidInput for a requested output that is not declared."""
        if not self.outputs:
            return
        if unknown := sorted(set(wanted) - self.outputs.keys()):
            raise InvalidInput(f"unknown output {unknown[0]!r}; expected one of {', '.join(self.outputs)}")

    def _expected(self) -> str:
        return ", ".join(described(spec) if spec else name for name, spec in self.inputs.items())


def described(spec: TensorSpec) -> str:
    """`input_ids INT64 [-1, 128]`, as messages name it."""
    return f"{spec.name} {spec.dtype} {list(spec.shape)}" + (" (optional)" if spec.optional else "")


def disagreement(spec: TensorSpec, tensor: Tensor) -> str | None:
    """In what a tensor differs from its spec, or None where it agrees."""
    if tensor.dtype != spec.dtype:
        return f"dtype {tensor.dtype}"
    agrees = len(tensor.shape) == len(spec.shape) and all(
        wanted in (-1, size) for wanted, size in zip(spec.shape, tensor.shape, strict=True)
    )
    return None if agrees else f"shape {list(tensor.shape)}"


def _of_graph(graph: Graph, members: Mapping[str, Member]) -> Contract:
    steps = {step.name: step for step in graph.steps}
    inputs: dict[str, TensorSpec | None] = {}
    for step in graph.steps:
        declared = {spec.name: spec for spec in members[step.model].inputs}
        for source in step.inputs:
            for ref in (ref for origin in source.origins if (ref := ValueRef.parse(origin)).producer == REQUEST):
                inputs[ref.name] = _stricter(inputs.get(ref.name), _named(declared.get(source.name), ref.name))
        for comparison in comparisons(step):
            if (ref := ValueRef.parse(comparison.source)).producer == REQUEST:
                inputs.setdefault(ref.name, None)
    outputs: dict[str, TensorSpec | None] = {}
    for output in graph.outputs:
        alternatives = []
        for ref in map(ValueRef.parse, output.origins):
            if ref.producer == REQUEST:
                inputs.setdefault(ref.name, None)
            made = members[steps[ref.producer].model].outputs if ref.producer in steps else ()
            known = inputs[ref.name] if ref.producer == REQUEST else None
            alternatives.append(next((spec for spec in made if spec.name == ref.name), known))
        outputs[output.name] = _named(reduce(_looser, alternatives), output.name)
    return Contract(inputs, outputs)


def _looser(left: TensorSpec | None, right: TensorSpec | None) -> TensorSpec | None:
    """What either may be: a dimension is fixed where both are, and the same."""
    if left is None or right is None:
        return None
    shape = tuple(a if a == b else -1 for a, b in zip(left.shape, right.shape, strict=True))
    return left.model_copy(update={"shape": shape})


def _named(spec: TensorSpec | None, name: str) -> TensorSpec | None:
    return spec.model_copy(update={"name": name}) if spec else None


def _stricter(left: TensorSpec | None, right: TensorSpec | None) -> TensorSpec | None:
    """Of two readers of one input, what both can take: each dimension fixed by either, optional only for both."""
    if left is None or right is None:
        return left or right
    shape = tuple(b if a == -1 else a for a, b in zip(left.shape, right.shape, strict=True))
    return left.model_copy(update={"shape": shape, "optional": left.optional and right.optional})
