"""The PodDisruptionBudget: one per resource on its stable label, across pools."""

from typing import Any

from podium_operator.resources import names
from podium_operator.resources.labels import child_labels, metadata, stable_label
from podium_operator.state import Owner


def disruption_budget(owner: Owner, replicas: int) -> dict[str, Any]:
    """At most one pod evicted at a time; a single replica only once another one is ready.

    The lone pod of a cordoned node gets a second beside it (see `rollout.surge`), and then minAvailable 1 lets it go.
    """
    key, value = stable_label(owner.resource)
    limit = {"minAvailable": 1} if replicas == 1 else {"maxUnavailable": 1}
    labels = child_labels(owner.resource, "disruption-budget")
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, names.disruption_budget(owner.resource.name), labels),
        "spec": {**limit, "selector": {"matchLabels": {key: value}}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
    }
