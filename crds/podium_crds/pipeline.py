"""InferencePipeline: a graph of models served as one."""

from dataclasses import replace
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from podium_crds.base import UNORDERED, DnsLabel, Form, KeyedBy, Lenient, ResourceName, Rule, Ruled, Strict, VersionName
from podium_crds.constants import checked_constant
from podium_crds.graph import MAX_MEMBERS, MAX_STEPS, REQUEST
from podium_crds.keys import API_VERSION
from podium_crds.meta import ObjectMeta
from podium_crds.model import ModelDefinition
from podium_crds.serving import GPUS_CEL, ServingSpec
from podium_crds.status import ServingStatus
from podium_crds.tensors import TensorName

MAX_STEP_INPUTS = 32
MAX_EDGES = 256
"""Sources of the inputs of all steps together."""
MAX_ALTERNATIVES = 8
MAX_FURTHER_CONDITIONS = 7
MAX_DECLARED_TENSORS = 256
"""Inputs and outputs that all inline members together may declare."""
MAX_OUTPUTS = 32

_SOURCE = Form(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?[.][A-Za-z_][A-Za-z0-9_.-]*$", "request.<name> or <step>.<output>")
SourceExpression = Annotated[str, _SOURCE, Field(max_length=127)]
"""`request.<name>` or `<step>.<output>`."""


def _scalar(value: object) -> str | int | bool:
    if isinstance(value, str | int) and len(str(value)) <= 253:
        return value
    raise PydanticCustomError("scalar", "expected a string of at most 253 characters, an integer, or true or false")


Scalar = Annotated[
    str | int | bool, PlainValidator(_scalar), WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})
]
"""A schema cannot say this, so that the API server keeps any value and the operator checks it."""


Constant = Annotated[
    Any, PlainValidator(checked_constant), WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})
]
"""A string, a number, true or false, or nested lists of them; checked by the operator, as Scalar is."""

Alternative = Annotated[str, replace(_SOURCE, inside_lists=True), Field(max_length=127)]
Alternatives = Annotated[tuple[Alternative, ...], Field(min_length=2, max_length=MAX_ALTERNATIVES)]
"""Sources in the order in which they are tried."""


class Placement(StrEnum):
    """Where the members run."""

    COLOCATED = "Colocated"
    REFERENCED = "Referenced"


class ModelReference(Strict):
    """An InferenceModel of the same namespace."""

    name: ResourceName
    """Name of the InferenceModel."""


class PipelineMember(Ruled):
    """A model of the pipeline: written here, or an InferenceModel of the namespace."""

    name: DnsLabel
    """The name that steps use for it."""
    inline: ModelDefinition | None = None
    """The model, written here."""
    model_ref: ModelReference | None = None
    """An InferenceModel of the same namespace, whose promoted revision is pinned; with placement Referenced, whose own
    pods are called."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.inline) != has(self.modelRef)",
            message="a member needs exactly one of inline and modelRef: write the model under inline, or name an "
            "InferenceModel with modelRef: {name: …}",
            holds=lambda member: (member.inline is None) != (member.model_ref is None),
        ),
    )


class StepInputSpec(Ruled):
    """A named value and where it comes from."""

    name: TensorName
    """Name of the input."""
    source: Annotated[SourceExpression | None, Field(alias="from")] = None
    """`request.<name>` for what the client sent, or `<step>.<output>`."""
    from_first: Alternatives | None = None
    """In place of from: sources of which the first that has a value counts. Steps that did not run have none, so this
    joins branches again."""
    value: Constant | None = None
    """In place of from: a constant, the same for each row. A number, a string, true or false, or lists of them."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.from) && has(self.fromFirst))",
            message="an input has both from and fromFirst: keep one of them",
            holds=lambda edge: edge.source is None or edge.from_first is None,
        ),
        Rule(
            # An API server cannot see a value of any type.
            cel=None,
            message="an input takes exactly one of from, fromFirst and value: write from: request.<name> or "
            "from: <step>.<output>",
            holds=lambda edge: [edge.source, edge.from_first, edge.value].count(None) == 2,
        ),
    )


class OutputSpec(Ruled):
    """A named value of the answer and where it comes from."""

    name: TensorName
    """Name of the output."""
    source: Annotated[SourceExpression | None, Field(alias="from")] = None
    """`<step>.<output>`, or `request.<name>` for what the client sent. Left out of the answer where the step did not
    run."""
    from_first: Alternatives | None = None
    """In place of from: sources of which the first that has a value counts."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.from) != has(self.fromFirst)",
            message="an output takes exactly one of from and fromFirst: write from: <step>.<output>",
            holds=lambda edge: (edge.source is None) != (edge.from_first is None),
        ),
    )


class ComparisonSpec(Ruled):
    """Compares one value for each request with another."""

    source: Annotated[SourceExpression, Field(alias="from")]
    """`request.<name>` for what the client sent, or `<step>.<output>`: one value for each request."""
    equals: Scalar | None = None
    """Holds where the value is this: a string, an integer, or true or false."""
    not_equals: Scalar | None = None
    """In place of equals: holds where the value is another."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=None,
            message="a condition takes exactly one of equals and notEquals",
            holds=lambda comparison: (comparison.equals is None) != (comparison.not_equals is None),
        ),
    )


class StepConditionSpec(ComparisonSpec):
    """Runs a step only for requests for which the comparison holds."""

    also: Annotated[
        tuple[ComparisonSpec, ...] | None, Field(alias="and", min_length=1, max_length=MAX_FURTHER_CONDITIONS)
    ] = None
    """Further comparisons that must hold."""


def _has_rows(step: "PipelineStep") -> bool:
    return any(edge.value is None for edge in step.inputs)


class PipelineStep(Ruled):
    """One call of a member."""

    name: DnsLabel
    """Name of the step, which other steps use in from."""
    model: DnsLabel
    """Name of the member that is called."""
    inputs: Annotated[
        tuple[StepInputSpec, ...],
        Field(min_length=1, max_length=MAX_STEP_INPUTS),
        KeyedBy("name"),
        UNORDERED,
    ]
    """Inputs of the member, and where each comes from."""
    when: StepConditionSpec | None = None
    """Runs the step only where this holds. Absent: always."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """How long this step may take. Absent: what is left of the request."""
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    """How often the step is run again after its worker died; only for members that are idempotent."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.inputs.exists(input, has(input.from) || has(input.fromFirst))",
            message="a step has constants alone, which have no rows: feed at least one input with from",
            holds=_has_rows,
        ),
    )


def _steps_name_members(spec: "InferencePipelineSpec") -> bool:
    names = {member.name for member in spec.models}
    return all(step.model in names for step in spec.steps)


def _sources_name_steps(spec: "InferencePipelineSpec") -> bool:
    known = {REQUEST, *(step.name for step in spec.steps)}
    sources = [edge.source for step in spec.steps for edge in step.inputs if edge.source is not None]
    return all(source.split(".", 1)[0] in known for source in sources)


def _outputs_name_steps(spec: "InferencePipelineSpec") -> bool:
    known = {REQUEST, *(step.name for step in spec.steps)}
    sources = [output.source for output in spec.outputs if output.source is not None]
    return all(source.split(".", 1)[0] in known for source in sources)


def _conditions_name_steps(spec: "InferencePipelineSpec") -> bool:
    known = {REQUEST, *(step.name for step in spec.steps)}
    return all(step.when.source.split(".", 1)[0] in known for step in spec.steps if step.when is not None)


def _count_sources(spec: "InferencePipelineSpec") -> int:
    return sum(len(edge.from_first or (edge.name,)) for step in spec.steps for edge in step.inputs)


def _declared_tensors(spec: "InferencePipelineSpec") -> int:
    inline = [member.inline for member in spec.models if member.inline is not None]
    return sum(len(definition.inputs) + len(definition.outputs) for definition in inline)


def _inline_gpus(spec: "InferencePipelineSpec") -> Fraction:
    inline = [member.inline for member in spec.models if member.inline is not None]
    return sum((Fraction(model.gpu_fraction or 0) * model.instances for model in inline), Fraction(0))


class InferencePipelineSpec(ServingSpec):
    """The models, how values flow between them, and the pods that run them."""

    version: VersionName = "1"
    """Your name for this version. Changing it makes a new revision even if nothing else changed."""
    models: Annotated[
        tuple[PipelineMember, ...], Field(min_length=1, max_length=MAX_MEMBERS), KeyedBy("name"), UNORDERED
    ]
    """Models that steps call."""
    steps: Annotated[tuple[PipelineStep, ...], Field(min_length=1, max_length=MAX_STEPS), KeyedBy("name"), UNORDERED]
    """Calls of models. Each starts as soon as its inputs are there; independent ones run at once."""
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1, max_length=MAX_OUTPUTS), KeyedBy("name"), UNORDERED]
    """What the answer carries, and where each value comes from."""
    placement: Placement = Placement.COLOCATED
    """Colocated: all members in each pod, tensors move through shared memory. Referenced: members with modelRef stay in
    the pods of their InferenceModel, which steps call over the network; inline members are in each pod."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.steps.map(step, step.inputs.map(input, has(input.fromFirst) ? size(input.fromFirst) : 1).sum())"
            f".sum() <= {MAX_EDGES}",
            message=f"the steps have more than {MAX_EDGES} inputs together, each source of fromFirst counted: hand "
            "values on in fewer, larger tensors",
            holds=lambda spec: _count_sources(spec) <= MAX_EDGES,
        ),
        Rule(
            cel="self.models.map(member, (has(member.inline) && has(member.inline.inputs) ? size(member.inline.inputs) "
            ": 0) + (has(member.inline) && has(member.inline.outputs) ? size(member.inline.outputs) : 0)).sum() "
            f"<= {MAX_DECLARED_TENSORS}",
            message=f"the inline models declare more than {MAX_DECLARED_TENSORS} inputs and outputs together: leave "
            "out the declarations of some, or use fewer, larger tensors",
            holds=lambda spec: _declared_tensors(spec) <= MAX_DECLARED_TENSORS,
        ),
        Rule(
            cel="self.models.map(member, has(member.inline) && has(member.inline.gpuFraction) "
            "? double(member.inline.gpuFraction) * (has(member.inline.instances) ? double(member.inline.instances) "
            f": 1.0) : 0.0).sum() <= {GPUS_CEL} + 0.000001",
            message="the models' gpuFraction, of all instances, is together more than the pod has: raise "
            "resources.limits.nvidia.com/gpu, or lower gpuFraction or instances",
            holds=lambda spec: _inline_gpus(spec) <= spec.resources.gpus,
        ),
        Rule(
            cel="self.steps.all(step, self.models.exists(member, member.name == step.model))",
            message="a step calls a model that is not listed: add it under models, or correct the step's model",
            holds=_steps_name_members,
        ),
        Rule(
            cel="self.steps.all(step, step.name != 'request')",
            message="a step is named request, which means what the client sent: choose another name",
            holds=lambda spec: all(step.name != REQUEST for step in spec.steps),
        ),
        Rule(
            # Cheaper than a comparison with each step: the API server's estimate must stay far below its limit.
            cel="self.steps.all(step, step.inputs.all(input, !has(input.from) || input.from.split('.')[0] in "
            "self.steps.map(other, other.name) + ['request']))",
            message="an input of a step comes from a step that does not exist: write from: request.<name> or "
            "from: <step>.<output>",
            holds=_sources_name_steps,
        ),
        Rule(
            cel="self.outputs.all(output, !has(output.from) || output.from.split('.')[0] in "
            "self.steps.map(step, step.name) + ['request'])",
            message="an output comes from a step that does not exist: write from: <step>.<output>",
            holds=_outputs_name_steps,
        ),
        Rule(
            cel="self.steps.all(step, !has(step.when) || step.when.from.split('.')[0] in "
            "self.steps.map(other, other.name) + ['request'])",
            message="the condition of a step looks at a step that does not exist: write from: request.<name> or "
            "from: <step>.<output>",
            holds=_conditions_name_steps,
        ),
    )


class InferencePipeline(Lenient):
    """A graph of models served as one: all members in each pod, tensors moving through shared memory, and a change of
    any member swaps the whole graph without one failed request."""

    api_version: Literal["podium.dev/v1alpha1"] = API_VERSION
    kind: Literal["InferencePipeline"] = "InferencePipeline"
    metadata: ObjectMeta
    spec: InferencePipelineSpec
    """The models, how values flow between them, and the pods that run them."""
    status: ServingStatus = ServingStatus()
    """What the operator says about it."""
