"""What a person needs to see after a failure: the objects, their events and the logs, in one text."""

from __future__ import annotations

from .kubectl import Kubectl, KubectlError

_LINES = "150"


def namespace(kubectl: Kubectl) -> str:
    """Everything in one namespace."""
    parts = [
        _section(kubectl, "inference and children", "get", "inference,all,configmaps,endpointslices,pdb", "-o", "wide"),
        _section(kubectl, "resources", "get", "inference", "-o", "yaml", "--show-managed-fields=false"),
        _section(kubectl, "events", "get", "events", "--sort-by=.lastTimestamp"),
        _section(kubectl, "pods", "describe", "pods"),
        *pod_logs(kubectl),
    ]
    return "\n".join(parts)


def pod_logs(kubectl: Kubectl) -> list[str]:
    """The logs of every container, and of the one before it where it was restarted."""
    parts: list[str] = []
    try:
        pods = kubectl.list("pods")
    except KubectlError as exc:
        return [f"(no pods to be had: {exc.said[:500]})"]
    for pod in pods:
        name = pod["metadata"]["name"]
        for status in pod["status"].get("containerStatuses", []):
            where = [name, "-c", status["name"], f"--tail={_LINES}"]
            parts.append(_section(kubectl, f"log of {name}/{status['name']}", "logs", *where))
            if status["restartCount"]:
                parts.append(_section(kubectl, f"log of {name}/{status['name']} before", "logs", "--previous", *where))
    return parts


def _section(kubectl: Kubectl, title: str, *arguments: str) -> str:
    try:
        said = kubectl(*arguments)
    except KubectlError as exc:
        said = f"(kubectl: {exc.said[:500]})"
    return f"----- {kubectl.namespace}: {title}\n{said[-20000:]}"
