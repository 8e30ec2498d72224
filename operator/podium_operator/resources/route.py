"""The HTTPRoute: what Gateways send to the Service of the resource."""

from typing import Any

from podium_crds.gateway import GatewayParent, GatewayRoute
from podium_operator.resources import names
from podium_operator.resources.labels import child_labels, metadata
from podium_operator.resources.service import SERVICE_PORT
from podium_operator.state import Owner

GROUP = "gateway.networking.k8s.io"
PREFIXES = ("/v1", "/v2", "/rpc")
"""Where inference is asked for. Metrics, pages and the health of a pod are for the cluster alone."""


def http_route(owner: Owner, wanted: GatewayRoute) -> dict[str, Any]:
    """The hosts and the path that are asked for, to the Service, whatever pools are behind it."""
    backend = {"group": "", "kind": "Service", "name": names.service(owner.resource.name), "port": SERVICE_PORT}
    backends = [{**backend, "weight": 1}]
    spec: dict[str, Any] = {
        "parentRefs": [_parent(parent) for parent in wanted.parent_refs],
        "rules": [_rule(wanted.path, prefix, backends) for prefix in PREFIXES],
    }
    if wanted.hostnames:
        spec["hostnames"] = list(wanted.hostnames)
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(owner, names.http_route(owner.resource.name), child_labels(owner.resource, "route")),
        "spec": spec,
    }


def _rule(path: str | None, prefix: str, backends: list[dict[str, Any]]) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "matches": [{"path": {"type": "PathPrefix", "value": f"{path or ''}{prefix}"}}],
        "backendRefs": backends,
    }
    if path is not None:
        rewritten = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": prefix}}
        rule["filters"] = [{"type": "URLRewrite", "urlRewrite": rewritten}]
    return rule


def _parent(parent: GatewayParent) -> dict[str, Any]:
    return {"group": GROUP, "kind": "Gateway", **parent.wire()}


def contains(live: object, wanted: object) -> bool:
    """Whether everything in `wanted` is in `live` too, where the API server and others may have added fields."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            key in live and contains(live[key], inner) for key, inner in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(contains, live, wanted))
    return live == wanted
