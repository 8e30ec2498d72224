"""The parts of Kubernetes' own metadata that Podium reads and writes."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from podium_crds.base import Form, Int64, JsonObject, Lenient, ObjectName, ResourceName, Strict, Text, Timestamp

MAX_LABELS = 64


class ObjectMeta(Lenient):
    """Metadata of a Podium resource. The API server owns everything but name, namespace, labels and annotations."""

    name: ResourceName
    namespace: str = "default"
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[JsonObject, ...] = ()


class LocalReference(Strict):
    """An object of the same namespace, by name."""

    name: ObjectName
    """Name of the object."""


class ConditionStatus(StrEnum):
    """Three-valued truth of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Lenient):
    """One aspect of the state of the resource, as metav1.Condition."""

    type: Annotated[str, Field(max_length=63)]
    """Ready, Available, Progressing, UpToDate, Validated, ArtifactsReady, Routed or Degraded."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Annotated[str, Form(r"^[A-Za-z][A-Za-z0-9]*$", "one word in CamelCase"), Field(max_length=63)]
    """Why, in one word; each has a page in docs/reasons."""
    message: Text = ""
    """Why, for people."""
    observed_generation: Int64 = 0
    """The metadata.generation that this condition was computed from."""
    last_transition_time: Timestamp
    """When the status last changed, RFC 3339."""
