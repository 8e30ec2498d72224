"""Labels, annotations and owner references that every child carries."""

from collections.abc import Mapping
from typing import Any

from podium_crds.assignment import ResourceKind, ResourceRef
from podium_crds.keys import GROUP, LABEL_MANAGED_BY, LABEL_MODEL, LABEL_PIPELINE, LABEL_POOL, MANAGED_BY
from podium_operator.state import Owner

SHAPE_HASH = f"{GROUP}/shape-hash"
"""On a pool's Deployment: what its pods were rendered from."""
IMAGE = f"{GROUP}/runtime-image"
PROMOTED_AT = f"{GROUP}/promoted-at"
"""On a pool's ConfigMap: when its promoted revision was promoted, RFC 3339."""
DIGESTS = f"{GROUP}/digests"
"""On a ControllerRevision, whose data is immutable: JSON of digests by member, pinned at the first load."""
QUARANTINE = f"{GROUP}/quarantine"
"""On a ControllerRevision: JSON of why it failed."""
SERVED_AT = f"{GROUP}/served-at"
"""On a ControllerRevision: when its rollout last was complete, RFC 3339. Goes where it fails."""
RETRY = f"{GROUP}/retry"
"""On a resource, by its user: a new value asks to try a failed revision again."""
PROMOTE = f"{GROUP}/promote"
"""On a resource, by its user: `<revision>` or `<revision>/<step>`, see `state.Hand`."""
ABORT = f"{GROUP}/abort"
"""On a resource, by its user: the revision whose rollout is given up."""
ROLLBACK = f"{GROUP}/rollback"
"""On a resource, by its user: the revision that is not to serve."""
ROLLBACK_TO = f"{GROUP}/rollback-to"
"""On a resource, by its user: the revision to serve instead."""
BACKENDS_SINCE = f"{GROUP}/backends-since"
"""On an HTTPRoute: since when it divides requests as it does, RFC 3339."""
WITHDRAWN_AT = f"{GROUP}/withdrawn-at"
"""On a pool's ConfigMap: when pods that no node took were taken back, RFC 3339."""
ROTATE_ADMIN_KEY = f"{GROUP}/rotate-admin-key"
"""On a resource, by its user: a new value asks for a new admin key. Repeated on the Secret once done."""


def stable_label(resource: ResourceRef) -> tuple[str, str]:
    """The one label that all pods of the resource share, whatever their pool."""
    label = LABEL_PIPELINE if resource.kind is ResourceKind.PIPELINE else LABEL_MODEL
    return label, resource.name


def child_labels(resource: ResourceRef, component: str) -> dict[str, str]:
    """Labels of every child."""
    key, value = stable_label(resource)
    return {
        "app.kubernetes.io/name": "podium-runtime",
        "app.kubernetes.io/instance": resource.name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "podium",
        LABEL_MANAGED_BY: MANAGED_BY,
        key: value,
    }


def pool_labels(resource: ResourceRef, pool: str) -> dict[str, str]:
    """Labels of a pool's Deployment, ConfigMap and pods."""
    return {**child_labels(resource, "runtime"), LABEL_POOL: pool}


def controlled_by(manifest: Mapping[str, Any], uid: str) -> bool:
    """Whether the object's controller is the one with this UID."""
    references = manifest["metadata"].get("ownerReferences") or ()
    return any(each.get("controller") and each.get("uid") == uid for each in references)


def owner_reference(owner: Owner) -> dict[str, Any]:
    """The resource as controller: garbage collection removes the child with it."""
    return {
        "apiVersion": owner.api_version,
        "kind": str(owner.resource.kind),
        "name": owner.resource.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(
    owner: Owner, name: str, labels: dict[str, str], annotations: dict[str, str] | None = None
) -> dict[str, Any]:
    """Metadata of a child."""
    found: dict[str, Any] = {
        "name": name,
        "namespace": owner.resource.namespace,
        "labels": labels,
        "ownerReferences": [owner_reference(owner)],
    }
    if annotations:
        found["annotations"] = annotations
    return found
