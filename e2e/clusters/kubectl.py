"""kubectl as a function, and what is done with it on every kind of cluster."""

from __future__ import annotations

import json
from pathlib import Path

from .shell import run, wait_for
from .toolchain import binary


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
    """Standard output of one kubectl command."""
    return run([binary("kubectl"), f"--kubeconfig={kubeconfig}", *arguments], stdin=stdin, timeout=timeout)


def set_extended_resource(kubeconfig: Path, node: str, resource: str, count: int) -> None:
    """Patch `resource` into the node's capacity, and wait until the kubelet has made it allocatable."""
    key = resource.replace("~", "~0").replace("/", "~1")
    patch = [{"op": "add", "path": f"/status/capacity/{key}", "value": str(count)}]
    kubectl(kubeconfig, "patch", "node", node, "--subresource=status", "--type=json", f"--patch={json.dumps(patch)}")

    def probe() -> str | None:
        status = json.loads(kubectl(kubeconfig, "get", "node", node, "-o", "json"))["status"]
        seen = status["allocatable"].get(resource, "0")
        return None if seen == str(count) else f"allocatable {resource}: {seen}"

    wait_for(f"{resource}={count} on {node}", probe, timeout=60, every=0.5)
