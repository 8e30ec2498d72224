"""What Gateways say of the HTTPRoute: the condition Routed. Ready does not depend on it: clients in the cluster are
served by the Service, whatever becomes of the route."""

from collections.abc import Iterator, Mapping
from typing import Any

from podium_crds.gateway import GatewayParent, GatewayRoute
from podium_crds.meta import ConditionStatus
from podium_crds.reasons import Reason
from podium_operator.state import Problem, Routed

Manifest = Mapping[str, Any]

NEEDED = ("Accepted", "ResolvedRefs")
"""Conditions that each parent must have as True."""


def routed(wanted: GatewayRoute, live: Manifest) -> Routed:
    """The verdict of a route that is as it should be: of the first Gateway that refuses, else of the first that has not
    answered for this generation."""
    found = [_said(parent, live) for parent in wanted.parent_refs]
    for status in (ConditionStatus.FALSE, ConditionStatus.UNKNOWN):
        for each in found:
            if each.status is status:
                return each
    where = ", ".join(each.message for each in found)
    hosts = ", ".join(wanted.hostnames) or "all hosts of the listeners"
    return Routed(ConditionStatus.TRUE, Reason.ROUTE_ACCEPTED, f"{where} routes {hosts}{wanted.path or ''} to it")


def pending(message: str) -> Routed:
    """Nothing is known of the route yet."""
    return Routed(ConditionStatus.UNKNOWN, Reason.ROUTE_PENDING, message)


def refused(problem: Problem) -> Routed:
    """There is no route, or not as it should be."""
    return Routed(ConditionStatus.FALSE, problem.reason, problem.message)


def _said(parent: GatewayParent, live: Manifest) -> Routed:
    """Of one Gateway; its name alone where all is well."""
    name = _name(parent, live["metadata"]["namespace"])
    answered = list(_conditions(parent, live))
    if not answered:
        return pending(
            f"no controller has answered for {name}: does it exist, is its GatewayClass accepted, and does a listener "
            "allow routes of this namespace?"
        )
    generation = int(live["metadata"].get("generation") or 0)
    for conditions in answered:
        for kind in NEEDED:
            said = conditions.get(kind)
            if said is None or int(said.get("observedGeneration") or generation) < generation:
                return pending(f"{name} has not said {kind} of the route as it is now")
            if said.get("status") != "True":
                text = f"{name}: {kind} is {said.get('status')} ({said.get('reason')}): {said.get('message') or '-'}"
                return Routed(ConditionStatus.FALSE, Reason.ROUTE_REJECTED, text)
    return Routed(ConditionStatus.TRUE, Reason.ROUTE_ACCEPTED, name)


def _conditions(parent: GatewayParent, live: Manifest) -> Iterator[dict[str, Manifest]]:
    """By type, of each controller that answers for this parent."""
    own = live["metadata"]["namespace"]
    wanted = (parent.name, parent.namespace or own, parent.section_name)
    for each in (live.get("status") or {}).get("parents") or ():
        found = each.get("parentRef") or {}
        if (found.get("name"), found.get("namespace") or own, found.get("sectionName")) == wanted:
            yield {condition["type"]: condition for condition in each.get("conditions") or ()}


def _name(parent: GatewayParent, own: str) -> str:
    listener = f" (listener {parent.section_name})" if parent.section_name else ""
    return f"Gateway {parent.namespace or own}/{parent.name}{listener}"
