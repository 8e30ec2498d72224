"""InferenceModel: one model, its contract, and the pods that serve it."""

from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from podium_crds.assignment import PURE_FORWARDS, EngineKind
from podium_crds.base import (
    Decimal,
    Digest,
    Form,
    JsonObject,
    KeyedBy,
    Lenient,
    PositiveSeconds,
    Rule,
    Ruled,
    VersionName,
)
from podium_crds.batching import BatchingSpec, PaddingSpec
from podium_crds.engines import HandlerEngine, OnnxEngine, PythonEngine, TorchEngine, inline_rule
from podium_crds.keys import API_VERSION
from podium_crds.meta import LocalReference, ObjectMeta
from podium_crds.serving import GPUS_CEL, ServingSpec
from podium_crds.status import ServingStatus
from podium_crds.tensors import DType, TensorSpec
from podium_crds.vllm import VllmEngine

_SOURCE_PATTERN = (
    r"^((s3|https|http)://[^/ ?#]+/[^ #]+|file:///[^ ]+|configmap://[a-z0-9][-a-z0-9.]*(/[-A-Za-z0-9._]+)?)$"
)
MAX_TENSORS = 64
TensorList = Annotated[
    tuple[TensorSpec, ...],
    Field(max_length=MAX_TENSORS),
    KeyedBy("name"),
]


class Source(Ruled):
    """Where the files of a model come from."""

    uri: Annotated[
        str,
        Form(
            _SOURCE_PATTERN,
            "s3://bucket/key, https://host/path, http://host/path, file:///path or configmap://name[/key-prefix]",
        ),
        Field(max_length=1024),
    ]
    """s3://bucket/key, https://host/path, http://host/path (only with a digest), file:///path (in the image, or on the
    machine of `podium serve`) or configmap://name[/key-prefix]. A tar or zip file is unpacked."""
    digest: Digest | None = None
    """What the fetched bytes must hash to. Absent: resolved at the first load and pinned for every later one."""
    credentials_secret_ref: LocalReference | None = None
    """Secret of the namespace with the access keys of the store. Absent: anonymous or ambient."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.uri.startsWith('http://') || has(self.digest)",
            message="http:// is not encrypted, so the files could be replaced on the way: add digest: sha256:<64 hex "
            "digits>, or use https://",
            holds=lambda source: not source.uri.startswith("http://") or source.digest is not None,
        ),
        Rule(
            cel="!has(self.credentialsSecretRef) || self.uri.startsWith('s3://') || self.uri.startsWith('https://')",
            message="credentialsSecretRef is used for s3:// and https:// only: remove it, or change the uri",
            holds=lambda source: source.credentials_secret_ref is None or source.uri.startswith(("s3://", "https://")),
        ),
    )


class WarmupSpec(Ruled):
    """Requests run before a revision takes traffic; their answers are thrown away."""

    requests: Annotated[tuple[JsonObject, ...], Field(max_length=16)] = ()
    """Requests in named tensors, as the body of :predict has them under inputs."""
    timeout_seconds: PositiveSeconds = 120
    """How long all of them together may take."""

    rules: ClassVar[tuple[Rule, ...]] = (inline_rule("requests", "requests", "send fewer or shorter ones"),)


class SmokeTest(Ruled):
    """A request whose answer is checked before a revision takes traffic."""

    request: JsonObject
    """The request in named tensors, as the body of :predict has them under inputs."""
    expect: JsonObject | None = None
    """Outputs by name that must come back. Absent: any answer within the contract will do."""
    tolerance: Decimal = "0.001"
    """Largest absolute difference of a number."""

    rules: ClassVar[tuple[Rule, ...]] = (
        inline_rule("request", "request", "send a shorter one"),
        inline_rule("expect", "expect", "compare fewer outputs"),
    )


_BLOCK_EXAMPLES = {
    EngineKind.TORCH: "{entrypoint: module:function}",
    EngineKind.ONNX: "{file: model.onnx}",
    EngineKind.PYTHON: "{entrypoint: module:Class}",
    EngineKind.HANDLER: "{entrypoint: module:Class}",
    EngineKind.VLLM: "{}",
}
"""Each engine's block, as short as it can be. The block's name is the engine's in lower case."""


def _block_rule(kind: EngineKind) -> Rule:
    """An engine takes its options from its own block alone."""
    own, *others = sorted((other.lower() for other in EngineKind), key=lambda block: block != kind.lower())
    return Rule(
        cel=f"self.engine != '{kind}' || (has(self.{own}) && {' && '.join(f'!has(self.{name})' for name in others)})",
        message=f"engine: {kind} takes its options from the block {own}, and from no other: write {own}: "
        f"{_BLOCK_EXAMPLES[kind]} and remove the block {' or '.join(others)}",
        holds=lambda model: (
            model.engine is not kind
            or (getattr(model, own) is not None and all(getattr(model, name) is None for name in others))
        ),
    )


def _can_be_padded(entry: PaddingSpec, inputs: tuple[TensorSpec, ...]) -> bool:
    return any(
        spec.name == entry.input
        and spec.dtype is not DType.BYTES
        and all(axis < len(spec.shape) and spec.shape[axis] == -1 for axis in entry.dimensions)
        for spec in inputs
    )


def _is_for_a_part(block: VllmEngine) -> bool:
    """Whether vLLM's own arguments leave room for a part of one GPU."""
    given = block.engine_args
    sizes = (given.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size"))
    return "gpu_memory_utilization" not in given and all(size == 1 for size in sizes)


class ModelDefinition(Ruled):
    """A model without its pods: what a pipeline member is, and the first half of an InferenceModel."""

    version: VersionName = "1"
    """Your name for this version. Changing it makes a new revision even if nothing else changed."""
    source: Source
    """Where the files of the model come from."""
    engine: EngineKind
    """What runs the model: Torch, Onnx, Python, Handler or VLLM. The block of the same name holds its options."""
    torch: TorchEngine | None = None
    """Options of engine Torch."""
    onnx: OnnxEngine | None = None
    """Options of engine Onnx."""
    python: PythonEngine | None = None
    """Options of engine Python."""
    handler: HandlerEngine | None = None
    """Options of engine Handler."""
    vllm: VllmEngine | None = None
    """Options of engine VLLM."""
    inputs: TensorList = ()
    """Tensors that a request carries. Absent: whatever the model takes."""
    outputs: TensorList = ()
    """Tensors that an answer carries. Absent: whatever the model gives."""
    batching: BatchingSpec = BatchingSpec()
    """How requests are gathered into tensor batches."""
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    """Worker processes in each pod."""
    gpu_fraction: Decimal | None = None
    """Part of a GPU for each instance, such as "0.5", where workers of a pod share its GPUs. They are packed onto the
    GPUs, each sees its own alone, and Torch and VLLM are held to that part of its memory. Where one member of a pod has
    it, those without it run on the CPU. Absent everywhere: instances take the pod's GPUs in turn."""
    idempotent: bool = False
    """Whether a request that was started may be run once more after a worker died."""
    hang_timeout_seconds: Annotated[int, Field(ge=1, le=86400)] | None = None
    """How long one forward may take before its worker is killed as hung. Absent: until the time of its requests, and
    timeoutSeconds, are over. Loading and warm-up have limits of their own."""
    warmup: WarmupSpec = WarmupSpec()
    """Requests run before a revision takes traffic."""
    smoke_test: SmokeTest | None = None
    """A request whose answer is checked before a revision takes traffic."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *(_block_rule(kind) for kind in EngineKind),
        Rule(
            cel="!has(self.batching) || !has(self.batching.padding) || self.batching.padding.all(p, "
            "has(self.inputs) && self.inputs.exists(i, i.name == p.input && i.dtype != 'BYTES' && "
            "(has(p.dimensions) ? p.dimensions.all(d, d < size(i.shape) && i.shape[d] == -1) "
            ": size(i.shape) > 1 && i.shape[1] == -1)))",
            message="batching.padding names inputs that are declared, are not BYTES, and have size -1 in the padded "
            "dimensions: declare them under inputs, such as {name: ids, dtype: INT64, shape: [-1, -1]}",
            holds=lambda model: all(_can_be_padded(entry, model.inputs) for entry in model.batching.padding),
        ),
        Rule(
            cel="!has(self.vllm) || !has(self.vllm.trustRemoteCode) || !self.vllm.trustRemoteCode "
            "|| has(self.source.digest)",
            message="vllm.trustRemoteCode runs code that comes with the model: pin it with source.digest: "
            "sha256:<64 hex digits>, or remove trustRemoteCode",
            holds=lambda model: not (model.vllm and model.vllm.trust_remote_code) or model.source.digest is not None,
        ),
        Rule(
            cel="!has(self.gpuFraction) || (double(self.gpuFraction) > 0.0 && double(self.gpuFraction) <= 1.0)",
            message='gpuFraction is a part of one GPU: write a decimal above 0 and at most 1, such as "0.5"',
            holds=lambda model: model.gpu_fraction is None or 0 < Fraction(model.gpu_fraction) <= 1,
        ),
        Rule(
            cel="!has(self.gpuFraction) || !((has(self.torch) && has(self.torch.device) && self.torch.device == 'Cpu') "
            "|| (has(self.onnx) && has(self.onnx.device) && self.onnx.device == 'Cpu') "
            "|| (has(self.vllm) && has(self.vllm.device) && self.vllm.device == 'Cpu'))",
            message="gpuFraction is for what runs on a GPU: remove it, or device: Cpu",
            holds=lambda model: model.gpu_fraction is None or getattr(model.options, "device", "Auto") != "Cpu",
        ),
        Rule(
            # An API server cannot see an argument of any type.
            cel=None,
            message="gpuFraction gives vLLM its part of one GPU: remove gpu_memory_utilization, and sizes above 1 of "
            "tensor_parallel_size and pipeline_parallel_size, from vllm.engineArgs, or remove gpuFraction",
            holds=lambda model: model.gpu_fraction is None or model.vllm is None or _is_for_a_part(model.vllm),
        ),
        Rule(
            cel="self.engine != 'VLLM' || (!has(self.smokeTest) && (!has(self.inputs) || size(self.inputs) == 0) && "
            "(!has(self.outputs) || size(self.outputs) == 0) && (!has(self.warmup) || !has(self.warmup.requests) || "
            "size(self.warmup.requests) == 0))",
            message="engine: VLLM answers OpenAI requests and takes no named tensors: remove inputs, outputs, "
            "smokeTest and warmup.requests",
            holds=lambda model: (
                model.engine is not EngineKind.VLLM
                or not (model.inputs or model.outputs or model.smoke_test or model.warmup.requests)
            ),
        ),
    )

    @property
    def options(self) -> TorchEngine | OnnxEngine | PythonEngine | HandlerEngine | VllmEngine:
        """The block of the engine."""
        chosen = self.torch or self.onnx or self.python or self.handler or self.vllm
        assert chosen is not None, "checked by the rules"
        return chosen


def _may_be_shadowed(spec: "InferenceModelSpec") -> bool:
    analysis = spec.rollout.analysis
    parity = analysis.parity if analysis is not None else None
    return parity is None or parity.allow_side_effects or spec.idempotent or spec.engine in PURE_FORWARDS


class InferenceModelSpec(ModelDefinition, ServingSpec):
    """What to serve and how."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.rollout) || !has(self.rollout.analysis) || !has(self.rollout.analysis.parity) || "
            "(has(self.idempotent) && self.idempotent) || self.engine in ['Torch', 'Onnx'] || "
            "(has(self.rollout.analysis.parity.allowSideEffects) && self.rollout.analysis.parity.allowSideEffects)",
            message="rollout.analysis.parity runs requests twice, and the model may do more than answer: set "
            "idempotent: true if it does not, or rollout.analysis.parity.allowSideEffects: true if that may happen "
            "twice",
            holds=_may_be_shadowed,
        ),
        Rule(
            cel="!has(self.gpuFraction) || self.replicas == 0 || double(self.gpuFraction) * (has(self.instances) ? "
            f"double(self.instances) : 1.0) <= {GPUS_CEL} + 0.000001",
            message="gpuFraction of all instances is more than the pod has: raise resources.limits.nvidia.com/gpu, or "
            "lower gpuFraction or instances",
            holds=lambda spec: (
                spec.gpu_fraction is None
                or spec.replicas == 0
                or Fraction(spec.gpu_fraction) * spec.instances <= spec.resources.gpus
            ),
        ),
        Rule(
            cel="self.engine != 'VLLM' || !has(self.exposure) || !has(self.exposure.grpc) || !self.exposure.grpc",
            message="engine: VLLM takes no named tensors, which are what gRPC carries: remove exposure.grpc, and ask "
            "the OpenAI routes",
            holds=lambda spec: spec.engine is not EngineKind.VLLM or not spec.exposure.grpc,
        ),
    )


class InferenceModel(Lenient):
    """A model served by pods that batch requests and move tensors through shared memory; a change of it swaps versions
    without one failed request."""

    api_version: Literal["podium.dev/v1alpha1"] = API_VERSION
    kind: Literal["InferenceModel"] = "InferenceModel"
    metadata: ObjectMeta
    spec: InferenceModelSpec
    """What to serve and how."""
    status: ServingStatus = ServingStatus()
    """What the operator says about it."""
