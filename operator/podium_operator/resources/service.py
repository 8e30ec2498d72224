"""The Service: one stable label across all pools."""

from typing import Any

from podium_crds.keys import DATA_PORT
from podium_operator.resources import names
from podium_operator.resources.labels import child_labels, metadata, stable_label
from podium_operator.state import Owner

SERVICE_PORT = 80


def service(owner: Owner) -> dict[str, Any]:
    """Reaches every ready pod of the resource, and only those."""
    key, value = stable_label(owner.resource)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, names.service(owner.resource.name), child_labels(owner.resource, "service")),
        "spec": {
            "type": "ClusterIP",
            "selector": {key: value},
            "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def url(owner: Owner) -> str:
    """Where clients in the cluster reach the resource."""
    return f"http://{names.service(owner.resource.name)}.{owner.resource.namespace}.svc"


assert DATA_PORT != SERVICE_PORT, "an unprivileged process cannot listen on the Service's port"
