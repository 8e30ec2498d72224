"""Values of the operator for tests: resources as people write them, and what the planner is given."""

from datetime import UTC, datetime, timedelta
from typing import Any

from podium_crds.assignment import ResourceKind, ResourceRef
from podium_crds.model import InferenceModel
from podium_crds.parse import parse_resource
from podium_crds.revision import RevisionRecord, revision_of
from podium_operator.state import Desired, KnownRevision, Owner

START = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = "podium-runtime:test"
NAME = "minilm"


def a_model(version: str = "1", **spec: Any) -> InferenceModel:
    """An InferenceModel; `spec` in wire names replaces or adds fields of spec."""
    found = parse_resource(
        {
            "apiVersion": "podium.dev/v1alpha1",
            "kind": "InferenceModel",
            "metadata": {"name": NAME, "namespace": "default", "uid": "uid-minilm", "generation": 1},
            "spec": {
                "version": version,
                "source": {"uri": f"s3://models/minilm/{version}"},
                "engine": "Python",
                "python": {"entrypoint": "model:Model"},
                **spec,
            },
        }
    )
    assert isinstance(found, InferenceModel)
    return found


def a_record(version: str = "1", **spec: Any) -> RevisionRecord:
    """The revision of `a_model`."""
    return revision_of(a_model(version, **spec), {}, configmaps={}, image=IMAGE)


def an_owner() -> Owner:
    """The owner of all children in these tests."""
    resource = ResourceRef(kind=ResourceKind.MODEL, namespace="default", name=NAME)
    return Owner(resource, "podium.dev/v1alpha1", "uid-minilm")


def a_desired(version: str = "1", *, replicas: int = 1, rollout: dict[str, Any] | None = None, **spec: Any) -> Desired:
    """What the spec of `a_model` asks for."""
    model = a_model(version, replicas=replicas, rollout=rollout or {}, **spec)
    record = revision_of(model, {}, configmaps={}, image=IMAGE)
    return Desired(
        owner=an_owner(),
        generation=1,
        target=KnownRevision(name=record.name, record=record),
        replicas=replicas,
        rollout=model.spec.rollout,
    )


def after(seconds: float) -> datetime:
    """That long after `START`."""
    return START + timedelta(seconds=seconds)
