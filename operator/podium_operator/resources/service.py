"""The Service: one stable label across all pools."""

from typing import Any

from podium_crds.keys import DATA_PORT, GRPC_PORT, LABEL_POOL
from podium_operator.resources import names
from podium_operator.resources.labels import child_labels, metadata, stable_label
from podium_operator.state import Owner

SERVICE_PORT = 80
GRPC_PROTOCOL = "kubernetes.io/h2c"
"""HTTP/2 without TLS, as gateways and meshes know it."""


def service(owner: Owner, *, grpc: bool = False) -> dict[str, Any]:
    """Reaches every ready pod of the resource, and only those.

    `grpc` has a port of its own, found by its name: pods of a shape without it take HTTP alone meanwhile.
    """
    key, value = stable_label(owner.resource)
    ports = [{"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}]
    if grpc:
        ports.append(
            {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP", "appProtocol": GRPC_PROTOCOL}
        )
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, names.service(owner.resource.name), child_labels(owner.resource, "service")),
        "spec": {
            "type": "ClusterIP",
            "selector": {key: value},
            "ports": ports,
        },
    }


def pool_service(owner: Owner, pool: str) -> dict[str, Any]:
    """Reaches the ready pods of one pool alone, for an HTTPRoute that divides requests by weight."""
    name = names.pool_service(pool)
    port = {"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, name, child_labels(owner.resource, "pool-service")),
        "spec": {"type": "ClusterIP", "selector": {LABEL_POOL: pool}, "ports": [port]},
    }


def url(owner: Owner) -> str:
    """Where clients in the cluster reach the resource."""
    return f"http://{names.service(owner.resource.name)}.{owner.resource.namespace}.svc"


def grpc_url(owner: Owner) -> str:
    """Where clients of gRPC reach it; libraries want what follows `grpc://`."""
    return f"grpc://{names.service(owner.resource.name)}.{owner.resource.namespace}.svc:{GRPC_PORT}"


assert DATA_PORT != SERVICE_PORT, "an unprivileged process cannot listen on the Service's port"
