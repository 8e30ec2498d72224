"""The fields that both kinds share because the operator builds their pods the same way."""

import re
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from podium_crds.base import (
    UNHASHED,
    UNORDERED,
    Canonical,
    JsonObject,
    KeyedBy,
    ObjectName,
    Open,
    Rule,
    Ruled,
    Strict,
    canonical_json,
)
from podium_crds.gateway import GatewayRoute
from podium_crds.meta import MAX_LABELS, LocalReference
from podium_crds.rollout import RolloutSpec

GPU_RESOURCE = "nvidia.com/gpu"

QUANTITY_PATTERN = r"^[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"


def _quantity(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and len(value) <= 32 and re.fullmatch(QUANTITY_PATTERN, value):
        return value
    raise PydanticCustomError("quantity", "expected a quantity such as 500m, 4Gi or 1")


Quantity = Annotated[
    int | str,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "x-kubernetes-validations": [
                {
                    "rule": f"type(self) == int ? self >= 0 : self.matches(r'{QUANTITY_PATTERN}')",
                    "message": "expected a quantity such as 500m, 4Gi or 1",
                }
            ],
        }
    ),
]
"""A Kubernetes quantity: 500m, 4Gi, 1."""

QuantityMap = Annotated[dict[Annotated[str, Field(max_length=253)], Quantity], Field(max_length=32)]
LabelMap = Annotated[
    dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=63)]], Field(max_length=MAX_LABELS)
]
AnnotationMap = Annotated[
    dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=4096)]], Field(max_length=MAX_LABELS)
]


_FACTORS = {"m": Fraction(1, 1000), "": Fraction(1), "k": Fraction(1000)}
_FACTORS |= {prefix: Fraction(1000**power) for power, prefix in enumerate("MGTPE", start=2)}
_FACTORS |= {f"{prefix}i": Fraction(1024**power) for power, prefix in enumerate("KMGTPE", start=1)}


def quantity_value(quantity: int | str) -> Fraction:
    """The exact number that a quantity stands for, in base units (cores, bytes, devices)."""
    if isinstance(quantity, int):
        return Fraction(quantity)
    digits = quantity.rstrip("mkKMGTPEi")
    return Fraction(digits) * _FACTORS[quantity[len(digits) :]]


def _plain_quantities(quantities: dict[str, int | str]) -> dict[str, str]:
    return {name: _plain_quantity(quantity) for name, quantity in quantities.items()}


def _plain_quantity(quantity: int | str) -> str:
    thousandths = ceil(quantity_value(quantity) * 1000)  # Kubernetes rounds finer ones up, too.
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def _env_order(env: list[JsonObject]) -> list[JsonObject]:
    """Sorted by name, unless one value refers to another, which makes the order matter."""
    return env if any("$(" in str(entry.get("value", "")) for entry in env) else sorted(env, key=canonical_json)


class ImagePullPolicy(StrEnum):
    """When the kubelet pulls the runtime image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class RuntimeSpec(Strict):
    """The image that the pods run."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image of the runtime. Absent: the chart's default, pinned in the revision, so that an upgrade of the operator
    replaces no pod."""
    image_pull_policy: ImagePullPolicy = ImagePullPolicy.IF_NOT_PRESENT
    """Always, IfNotPresent or Never."""


class Resources(Strict):
    """Compute resources of a pod, as in a container of a PodSpec."""

    limits: Annotated[QuantityMap, Canonical(_plain_quantities)] = Field(default_factory=dict)
    """Upper bounds, for example nvidia.com/gpu: 1 and memory: 4Gi."""
    requests: Annotated[QuantityMap, Canonical(_plain_quantities)] = Field(default_factory=dict)
    """What the scheduler reserves; a limit without a request is its own request."""

    @property
    def gpus(self) -> int:
        """Of a pod. Whole ones: Kubernetes takes no fraction of an extended resource."""
        return int(quantity_value(self.limits.get(GPU_RESOURCE, self.requests.get(GPU_RESOURCE, 0))))


GPUS_CEL = (
    f"(has(self.resources) && has(self.resources.limits) && '{GPU_RESOURCE}' in self.resources.limits "
    f"? quantity(string(self.resources.limits['{GPU_RESOURCE}'])).asApproximateFloat() : 0.0)"
)
"""`Resources.gpus` of the spec that a rule is about."""


class NamedPart(Open):
    """An entry of a PodSpec list that is told apart by its name; every other key is kept as it is."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the entry."""


class VolumeMount(Open):
    """A volumeMount of a PodSpec; every other key is kept as it is."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the volume."""
    mount_path: Annotated[str, Field(min_length=1, max_length=1024)]
    """Path in the runtime's container."""


class PodMetadata(Strict):
    """Labels and annotations added to the pods. Changing them replaces no pod; new pods carry the new ones."""

    labels: LabelMap = Field(default_factory=dict)
    """Labels for the pods. Keys under podium.dev/ and app.kubernetes.io/ are the operator's."""
    annotations: AnnotationMap = Field(default_factory=dict)
    """Annotations for the pods."""


class SharedMemory(Strict):
    """The memory through which tensors move between the processes of a pod."""

    arena_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] | None = None
    """Size of the arena. Absent: two of the largest bodies, within 32 MiB and a tenth of the memory limit."""


class Auth(Strict):
    """Who may ask for inference."""

    api_key_secret_ref: LocalReference | None = None
    """Secret of the namespace with a key under each of its names, 16 to 512 characters long. A request carries one of
    them as Authorization: Bearer or X-API-Key. Changed keys reach the pods without a restart. Absent: anybody who
    reaches the Service may ask."""


class Exposure(Strict):
    """How clients reach the pods."""

    auth: Auth = Auth()
    """Who may ask for inference."""
    grpc: bool = False
    """Whether the pods and the Service also answer the Open Inference Protocol over gRPC, on port 8082."""
    gateway: Annotated[GatewayRoute | None, UNHASHED] = None
    """Gateways through which clients reach the Service, by an HTTPRoute. Absent: none. Needs the Gateway API (standard
    channel) and the Helm value operator.gatewayApi; the condition Routed says what has become of it."""


def _no_reserved_labels(spec: "ServingSpec") -> bool:
    return not any(key.startswith(("podium.dev/", "app.kubernetes.io/")) for key in spec.pod_metadata.labels)


def _one_grpc_port(spec: "ServingSpec") -> bool:
    return not spec.exposure.grpc or all(entry.name != "PODIUM_GRPC_PORT" for entry in spec.env)


class ServingSpec(Ruled):
    """What the pods of a resource look like and how changes reach them."""

    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of pods. An autoscaler writes it through the scale subresource; 0 serves nothing."""
    suspend: bool = False
    """Whether no pods run for now, whatever replicas says."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long a whole request may take, all steps included."""
    runtime: RuntimeSpec = RuntimeSpec()
    """The image that the pods run."""
    resources: Resources = Resources()
    """Compute resources of a pod."""
    node_selector: LabelMap = Field(default_factory=dict)
    """Labels that a node must have, as in a PodSpec."""
    affinity: JsonObject | None = None
    """As in a PodSpec."""
    tolerations: Annotated[tuple[JsonObject, ...], Field(max_length=32), UNORDERED] = ()
    """As in a PodSpec."""
    topology_spread_constraints: Annotated[tuple[JsonObject, ...], Field(max_length=16), UNORDERED] = ()
    """As in a PodSpec."""
    priority_class_name: ObjectName | None = None
    """As in a PodSpec."""
    runtime_class_name: ObjectName | None = None
    """As in a PodSpec."""
    service_account_name: ObjectName | None = None
    """As in a PodSpec."""
    image_pull_secrets: Annotated[
        tuple[LocalReference, ...],
        Field(max_length=16),
        KeyedBy("name"),
        UNORDERED,
    ] = ()
    """As in a PodSpec."""
    env: Annotated[
        tuple[NamedPart, ...],
        Field(max_length=128),
        KeyedBy("name"),
        Canonical(_env_order),
    ] = ()
    """Environment of the runtime's container, as in a PodSpec."""
    volumes: Annotated[
        tuple[NamedPart, ...],
        Field(max_length=32),
        KeyedBy("name"),
        UNORDERED,
    ] = ()
    """Volumes added to the pod, as in a PodSpec."""
    volume_mounts: Annotated[
        tuple[VolumeMount, ...],
        Field(max_length=32),
        KeyedBy("mountPath"),
        UNORDERED,
    ] = ()
    """Where those volumes appear in the runtime's container, as in a PodSpec."""
    pod_metadata: PodMetadata = PodMetadata()
    """Labels and annotations added to the pods."""
    shared_memory: SharedMemory = SharedMemory()
    """The memory through which tensors move between the processes of a pod."""
    exposure: Exposure = Exposure()
    """How clients reach the pods."""
    rollout: RolloutSpec = RolloutSpec()
    """How a change reaches the pods."""

    @property
    def desired_replicas(self) -> int:
        """Pods that should run: replicas, or 0 while suspended."""
        return 0 if self.suspend else self.replicas

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.podMetadata) || !has(self.podMetadata.labels) || self.podMetadata.labels.all(key, "
            "!key.startsWith('podium.dev/') && !key.startsWith('app.kubernetes.io/'))",
            message="podMetadata.labels holds a key under podium.dev/ or app.kubernetes.io/, which the operator sets: "
            "use a prefix of your own",
            holds=_no_reserved_labels,
        ),
        Rule(
            cel="!has(self.exposure) || !has(self.exposure.grpc) || !self.exposure.grpc || !has(self.env) || "
            "self.env.all(entry, entry.name != 'PODIUM_GRPC_PORT')",
            message="exposure.grpc sets PODIUM_GRPC_PORT: remove it from env, or remove exposure.grpc",
            holds=_one_grpc_port,
        ),
    )
