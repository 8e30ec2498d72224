"""Contract 2: what a pod should hold (`Assignment`) and what it says it holds (`Report`).

Written by the operator (or by `podium serve -f`), read by the runtime; the report goes the other way. Both are
versioned: readers ignore keys they do not know, and a report names the schema versions its pod speaks.
"""

from enum import StrEnum
from functools import total_ordering
from typing import Annotated, Any

from pydantic import Field

from podium_crds.base import Digest, Lenient
from podium_crds.batching import PaddingSpec, RaggedSpec
from podium_crds.reasons import Reason
from podium_crds.shadow import Shadow, ShadowReport
from podium_crds.tensors import TensorSpec

SCHEMA_VERSION = 1
MAX_ASSIGNMENT_BYTES = 512 * 1024
MAX_REVISION_BYTES = 240 * 1024
"""Of the members and the graph of one revision: a swap needs two of them in one assignment."""


@total_ordering
class Generation(Lenient):
    """Order of assignments: a pod never applies a lower one, so that a stale leader has no effect."""

    transitions: Annotated[int, Field(ge=0)] = 0
    """How often the operator's Lease has changed hands."""
    sequence: Annotated[int, Field(ge=0)] = 0
    """Counts up within one leader's time, and on from what the pods report."""

    def __lt__(self, other: "Generation") -> bool:
        return (self.transitions, self.sequence) < (other.transitions, other.sequence)


class ResourceKind(StrEnum):
    """The two kinds a pod can serve."""

    MODEL = "InferenceModel"
    PIPELINE = "InferencePipeline"


class ResourceRef(Lenient):
    """The resource that an assignment was compiled from. Its name is the model name that clients use."""

    kind: ResourceKind
    namespace: str = "default"
    name: str


class Artifact(Lenient):
    """Where a member's files come from. Exactly one of `uri` and `files` is set."""

    uri: str | None = None
    """s3://, https://, http:// or file://. A tar or zip file is unpacked."""
    digest: Digest | None = None
    """What the fetched bytes must hash to; None: resolve at this load and report it."""
    files: dict[str, str] | None = None
    """Small text files by relative path, carried in the assignment itself (configmap:// sources)."""
    credentials_path: str | None = None
    """Directory of a mounted Secret with the access keys of the store; None: anonymous or ambient."""


class EngineKind(StrEnum):
    """How a model is executed."""

    TORCH = "Torch"
    ONNX = "Onnx"
    PYTHON = "Python"
    HANDLER = "Handler"
    VLLM = "VLLM"


PURE_FORWARDS = frozenset({EngineKind.TORCH, EngineKind.ONNX})
"""Engines whose forward has no effect but its answer: it may be run again without being asked for."""


class EngineSpec(Lenient):
    """One engine and its options, already defaulted and validated at the API."""

    kind: EngineKind
    entrypoint: str = ""
    """`module:attribute` inside the artifact: a class for Python and Handler, a builder function for Torch. Empty where
    the engine runs a file, and for VLLM."""
    file: str | None = None
    """Path inside the artifact: the graph of Onnx, or what Torch exported, of which `format` says how."""
    format: str | None = None
    """Of a Torch file: ExportedProgram or TorchScript."""
    dtype: str | None = None
    """Torch: FP32, FP16 or BF16; None: as stored."""
    device: str = "Auto"
    """Auto, Cpu or Cuda. Auto takes CUDA where the pod has a GPU."""
    compile: bool = False
    threads: int = 1
    """Intra-op threads of each worker process."""
    optimization: str | None = None
    """Onnx: Disabled, Basic, Extended or All; None: All."""
    spinning: bool | None = None
    """Onnx: whether idle threads spin for a moment; None: they do not."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Handed to the entrypoint as they are. VLLM: its engine arguments."""


class Batching(Lenient):
    """How requests of one member are gathered into tensor batches."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_delay_microseconds: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """The longest an idle worker may wait for company; 0: never waits."""
    max_queue_size: Annotated[int, Field(ge=1, le=65536)] = 256
    max_concurrent_streams: Annotated[int, Field(ge=1, le=4096)] = 64
    """Answers in chunks that one instance gives at once."""
    max_batch_elements: int | None = None
    """Most elements of all inputs of a batch, padding included; None: no limit."""
    target_latency_milliseconds: int | None = None
    """What 99 % of the answers may take; None: batches are not made smaller for it."""
    priority: Annotated[int, Field(ge=1, le=9)] = 5
    """Of requests that bring none; 1 is the most urgent."""
    device_share: Annotated[int, Field(ge=1, le=1000)] = 100
    """Weight among the groups on one device."""
    padding: tuple[PaddingSpec, ...] = ()
    ragged: RaggedSpec | None = None


class Probe(Lenient):
    """A request in named tensors (`:predict` form), and for smoke tests what must come back."""

    inputs: dict[str, Any]
    expect: dict[str, Any] | None = None
    tolerance: float = 0.001


class RemoteModel(Lenient):
    """A model that other pods serve."""

    url: str
    """Where they are reached: `http://host[:port]`."""
    model: str
    """Its name there."""


class Member(Lenient):
    """One loaded model of a revision. Members with the same `load_hash` share their workers."""

    name: str
    load_hash: str
    version: str
    artifact: Artifact
    engine: EngineSpec
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batching: Batching = Batching()
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    gpu_fraction: float | None = None
    """Part of a GPU that each instance gets; None: the pod's GPUs in turn, all of each."""
    gpu_places: tuple[int, ...] = ()
    """Which of the pod's GPUs each instance gets, where the pod was started for this revision alone."""
    idempotent: bool = False
    timeout_seconds: int = 30
    hang_timeout_seconds: int | None = None
    """How long one forward may take before its worker counts as hung; None: until its requests' time is up."""
    load_timeout_seconds: int = 600
    warmup: tuple[Probe, ...] = ()
    warmup_timeout_seconds: int = 120
    """How long all warm-up requests together may take."""
    smoke_test: Probe | None = None
    trust_remote_code: bool = False
    remote: RemoteModel | None = None
    """Nothing is loaded for this member: steps call the pods that serve it. Its artifact has no files then."""


class StepInput(Lenient):
    """One input of a step, or one output of the graph. Exactly one of `source`, `from_first` and `value` is set."""

    name: str
    source: Annotated[str | None, Field(alias="from")] = None
    """Such as `request.text` or `tokenize.input_ids`."""
    from_first: tuple[str, ...] | None = None
    """Sources of which the first that has a value counts: steps that were skipped have none."""
    value: Any = None
    """A constant: the value of one row, the same for all rows."""

    @property
    def origins(self) -> tuple[str, ...]:
        """Where the value may come from, in order; empty for a constant."""
        return self.from_first or ((self.source,) if self.source is not None else ())


class Comparison(Lenient):
    """Holds where the one value of `source` equals `equals`, or differs from `not_equals`: one of them is set."""

    source: Annotated[str, Field(alias="from")]
    equals: str | int | bool | None = None
    not_equals: str | int | bool | None = None


class StepCondition(Comparison):
    """Runs the step only where this holds, and everything in `also`."""

    also: Annotated[tuple[Comparison, ...] | None, Field(alias="and")] = None

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All of them."""
        return (self, *(self.also or ()))


class Step(Lenient):
    """One node of the graph."""

    name: str
    model: str
    inputs: tuple[StepInput, ...]
    when: StepCondition | None = None
    timeout_seconds: int | None = None
    retries: Annotated[int, Field(ge=0, le=10)] = 0


class Graph(Lenient):
    """Steps of a pipeline, already checked: acyclic, every reference resolves."""

    steps: tuple[Step, ...]
    outputs: tuple[StepInput, ...]


class Revision(Lenient):
    """An immutable version of the resource: its members and, for a pipeline, its graph."""

    name: str
    version: str
    members: tuple[Member, ...]
    graph: Graph | None = None
    """None: a single model, `members[0]`."""
    timeout_seconds: int = 30
    """The whole request, all steps."""


class TrafficTarget(Lenient):
    """Share of new requests that a revision answers."""

    revision: str
    weight: Annotated[int, Field(ge=0, le=100)]


class DrainPolicy(Lenient):
    """How a pod, and a revision in it, ends."""

    propagation_seconds: int = 10
    drain_timeout_seconds: int = 300
    restart_grace_seconds: int = 30


class Assignment(Lenient):
    """What a pod should hold. The mounted copy names promoted and warm revisions only; candidates come by push."""

    schema_version: int = SCHEMA_VERSION
    generation: Generation
    resource: ResourceRef
    pool: str = ""
    pod_uid: str | None = None
    """Set in a push: a pod refuses one that names another pod."""
    revisions: tuple[Revision, ...] = ()
    traffic: tuple[TrafficTarget, ...] = ()
    """Weights sum to 100, or nothing is routed. A revision takes traffic only once it is Ready."""
    promoted: str | None = None
    """The revision a restarted container comes up at."""
    shadow: Shadow | None = None
    """Copies of requests for a candidate. Comes by push alone, as candidates do."""
    drain: DrainPolicy = DrainPolicy()

    def revision(self, name: str) -> Revision | None:
        """The revision of that name, or None."""
        return next((r for r in self.revisions if r.name == name), None)


class RevisionState(StrEnum):
    """Where a revision stands in a pod, in the order it walks."""

    FETCHING = "Fetching"
    LOADING = "Loading"
    WARMING = "Warming"
    READY = "Ready"
    """Loaded, warmed, smoke-tested; takes no traffic. A warm revision stays here."""
    ACTIVE = "Active"
    DRAINING = "Draining"
    FAILED = "Failed"


LOADED_STATES = (RevisionState.READY, RevisionState.ACTIVE)
"""In these a revision can answer at once."""


class Failure(Lenient):
    """The last thing that went wrong."""

    reason: Reason
    message: Annotated[str, Field(max_length=1024)]
    exit_code: int | None = None
    time: str
    """RFC 3339, UTC."""


class Progress(Lenient):
    """How far a load has come."""

    bytes_done: int = 0
    bytes_total: int | None = None


class MemberReport(Lenient):
    """One member's workers as they are now."""

    name: str
    load_hash: str
    digest: Digest | None = None
    """What its artifact hashed to."""
    pids: tuple[int, ...] = ()
    restarts: int = 0
    private_bytes: int = 0
    shared_bytes: int = 0


class Counts(Lenient):
    """Requests answered by a revision in this pod."""

    succeeded: int = 0
    failed: int = 0
    """Answered with a 5xx."""
    latency_buckets: tuple[int, ...] = ()
    """Cumulative counts at the bounds of its kind and +Inf."""


COMPARISON_BOUNDS_S = tuple(round(0.0005 * 1.15**step, 7) for step in range(84))
"""Bounds of the latencies by which revisions are compared: 0.5 ms to 55 s, each 15 % above the one before."""
LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RevisionReport(Lenient):
    """One revision in one pod."""

    name: str
    state: RevisionState
    since: str
    """RFC 3339, UTC: when it came into this state."""
    weight: int = 0
    progress: Progress = Progress()
    in_flight: int = 0
    counts: Counts = Counts()
    """Since it was loaded, latencies at LATENCY_BOUNDS_S."""
    shared_counts: Counts = Counts()
    """Since traffic was last divided otherwise in this pod, latencies at COMPARISON_BOUNDS_S: what revisions are
    compared by."""
    shadow: ShadowReport | None = None
    """What its copies of requests showed. None: a release that makes no copies."""
    members: tuple[MemberReport, ...] = ()
    last_failure: Failure | None = None


class Report(Lenient):
    """What a pod says it holds. Served at the admin port."""

    schema_versions: tuple[int, ...] = (SCHEMA_VERSION,)
    runtime_version: str
    pod_uid: str
    resource: ResourceRef | None = None
    applied: Generation | None = None
    """Generation of the assignment in force."""
    mounted: Generation | None = None
    """Generation of the mounted copy as this pod last read it."""
    ready: bool = False
    draining: bool = False
    assigned: tuple[str, ...] | None = None
    """Revisions that the assignment in force names. `revisions` may list more: those on their way out.
    None: a release that does not say."""
    promoted: str | None = None
    revisions: tuple[RevisionReport, ...] = ()
    memory_limit_bytes: int | None = None
    headroom_bytes: int | None = None
    last_failure: Failure | None = None
    """A failure that belongs to no revision, such as a refused assignment."""

    def revision(self, name: str) -> RevisionReport | None:
        """The report on that revision, or None."""
        return next((r for r in self.revisions if r.name == name), None)
