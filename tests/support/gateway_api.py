"""The Gateway API in a test's API server: its definitions, and a controller's words about a route. No gateway runs."""

import json
from typing import Any

from e2e.clusters.toolchain import module_files
from tests.support.controlplane import ControlPlane

_CONTROLLER = "tests.podium.dev/gateway"


def install_gateway_api(plane: ControlPlane) -> None:
    """Apply the definitions of the standard channel, and wait until they are served."""
    files = [path for path in module_files("gateway-api", "config/crd/standard") if "_vap_" not in path.name]
    plane.kubectl("apply", "--server-side", *(f"--filename={path}" for path in files))
    plane.kubectl("wait", "--for=condition=Established", "crd/httproutes.gateway.networking.k8s.io", "--timeout=30s")


def answer(
    plane: ControlPlane, namespace: str, route: str, *, accepted: tuple[str, str] = ("True", "Accepted")
) -> dict[str, Any]:
    """As a controller of every Gateway that the route names, say of it as it is now; the route as it is then."""
    live = json.loads(plane.kubectl("get", "httproute", route, f"--namespace={namespace}", "-o", "json"))
    status, reason = accepted
    conditions = [
        {
            "type": kind,
            "status": value,
            "reason": why,
            "message": f"{kind} is {value}",
            "observedGeneration": live["metadata"]["generation"],
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, value, why in (("Accepted", status, reason), ("ResolvedRefs", "True", "ResolvedRefs"))
    ]
    live["status"] = {
        "parents": [
            {"parentRef": parent, "controllerName": _CONTROLLER, "conditions": conditions}
            for parent in live["spec"]["parentRefs"]
        ]
    }
    told = plane.kubectl("replace", "--subresource=status", "-o", "json", "-f", "-", stdin=json.dumps(live))
    found: dict[str, Any] = json.loads(told)
    return found
