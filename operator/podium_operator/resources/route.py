"""The HTTPRoute: what Gateways send to the Service of the resource."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from podium_crds.gateway import GatewayParent, GatewayRoute
from podium_operator.resources import names
from podium_operator.resources.labels import BACKENDS_SINCE, child_labels, metadata
from podium_operator.resources.service import SERVICE_PORT
from podium_operator.state import Backends, ObservedRoute, Owner
from podium_operator.times import parse_time, rfc3339

GROUP = "gateway.networking.k8s.io"
ALL_PODS = Backends()
PREFIXES = ("/v1", "/v2", "/rpc")
"""Where inference is asked for. Metrics, pages and the health of a pod are for the cluster alone."""


def http_route(
    owner: Owner, wanted: GatewayRoute, backends: Backends = ALL_PODS, since: datetime | None = None
) -> dict[str, Any]:
    """The hosts and the path that are asked for, to these backends. `since`: when they became these."""
    weights = {names.service(owner.resource.name): backends.service}
    weights |= {names.pool_service(pool): weight for pool, weight in sorted(backends.pools.items())}
    references = [
        {"group": "", "kind": "Service", "name": name, "port": SERVICE_PORT, "weight": weight}
        for name, weight in weights.items()
    ]
    labels = child_labels(owner.resource, "route")
    annotations = {BACKENDS_SINCE: rfc3339(since)} if since is not None else None
    spec: dict[str, Any] = {
        "parentRefs": [_parent(parent) for parent in wanted.parent_refs],
        "rules": [_rule(wanted.path, prefix, references) for prefix in PREFIXES],
    }
    if wanted.hostnames:
        spec["hostnames"] = list(wanted.hostnames)
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(owner, names.http_route(owner.resource.name), labels, annotations),
        "spec": spec,
    }


def read_route(owner: Owner, live: Mapping[str, Any]) -> ObservedRoute:
    """How a live HTTPRoute of ours divides requests, and whether Gateways know."""
    weights = {
        str(each.get("name")): int(each.get("weight", 1))
        for rule in live["spec"].get("rules") or ()
        for each in rule.get("backendRefs") or ()
    }
    named = {pool: weight for name, weight in weights.items() if (pool := names.pool_of_service(name)) is not None}
    since = parse_time((live["metadata"].get("annotations") or {}).get(BACKENDS_SINCE))
    service = weights.get(names.service(owner.resource.name), 1)
    return ObservedRoute(Backends(service, named), since, _answered(live))


def in_words(route: Mapping[str, Any]) -> dict[str, str]:
    """What a route is made of, for people. Of any HTTPRoute, also one that others have changed."""
    spec = route["spec"]
    rules = spec.get("rules") or ()
    matches = [match for rule in rules for match in rule.get("matches") or ()]
    paths = [str((match.get("path") or {}).get("value", "/")) for match in matches]
    backends = {
        str(each.get("name")): each.get("weight", 1) for rule in rules for each in rule.get("backendRefs") or ()
    }
    return {
        "Gateways": ", ".join(_in_words(parent) for parent in spec.get("parentRefs") or ()) or "none",
        "hosts": ", ".join(spec.get("hostnames") or ()) or "all of the listeners",
        "paths": ", ".join(paths) or "none",
        "Services": ", ".join(f"{name} {weight}" if len(backends) > 1 else name for name, weight in backends.items()),
    }


def _in_words(parent: Mapping[str, Any]) -> str:
    name = f"{parent['namespace']}/{parent['name']}" if parent.get("namespace") else str(parent.get("name"))
    return f"{name} (listener {parent['sectionName']})" if parent.get("sectionName") else name


def _answered(live: Mapping[str, Any]) -> bool:
    """Whether every Gateway that says anything of the route says it of the route as it is.

    One that does not accept it sends it nothing, so what it thinks of the backends does not matter.
    """
    generation = int(live["metadata"].get("generation") or 0)
    for each in (live.get("status") or {}).get("parents") or ():
        said = {condition["type"]: condition for condition in each.get("conditions") or ()}
        accepted, resolved = said.get("Accepted") or {}, said.get("ResolvedRefs") or {}
        if int(accepted.get("observedGeneration") or 0) < generation:
            return False
        if accepted.get("status") == "True" and (
            resolved.get("status") != "True" or int(resolved.get("observedGeneration") or 0) < generation
        ):
            return False
    return True


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
