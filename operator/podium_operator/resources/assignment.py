"""A pool's ConfigMap: the promoted and the warm revisions, for pods that start."""

import json
from datetime import datetime
from typing import Any

from podium_crds.assignment import Assignment
from podium_crds.base import canonical_json
from podium_crds.keys import ASSIGNMENT_FILE
from podium_operator.resources.labels import PROMOTED_AT, metadata, pool_labels
from podium_operator.state import Owner
from podium_operator.times import rfc3339


def assignment_configmap(owner: Owner, pool: str, assignment: Assignment, promoted_at: datetime) -> dict[str, Any]:
    """The ConfigMap. Mounted as a directory, so that pods see it change."""
    annotations = {PROMOTED_AT: rfc3339(promoted_at)}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, pool, pool_labels(owner.resource, pool), annotations),
        "data": {ASSIGNMENT_FILE: canonical_json(assignment.wire())},
    }


def written_transitions(configmap: dict[str, Any]) -> int | None:
    """The fencing number of the assignment in a live ConfigMap, without reading all of it; None where it has none."""
    try:
        found = json.loads((configmap.get("data") or {}).get(ASSIGNMENT_FILE) or "{}")["generation"]["transitions"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


def read_assignment(configmap: dict[str, Any]) -> Assignment | None:
    """The assignment of a live ConfigMap, or None where it holds none that can be read."""
    text = (configmap.get("data") or {}).get(ASSIGNMENT_FILE)
    try:
        return Assignment.model_validate(json.loads(text)) if text is not None else None
    except ValueError:
        return None
