"""The cluster that the demo runs on: kubectl and helm bound to it. All calls are bounded in time."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from e2e.clusters.base import Cluster
from e2e.clusters.toolchain import binary

from demo.errors import DemoError

NAMESPACE = "podium-demo"
MANIFESTS = Path(__file__).resolve().parent / "manifests"


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster that is up."""

    cluster: Cluster

    def argv(self, *arguments: str, namespace: str = NAMESPACE) -> list[str]:
        """A whole kubectl command line."""
        return [
            str(binary("kubectl")),
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--namespace={namespace}",
            *arguments,
        ]

    def kubectl(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60.0, namespace: str = NAMESPACE
    ) -> str:
        """Standard output of one command. Raises DemoError with what kubectl said."""
        return _run(self.argv(*arguments, namespace=namespace), stdin, timeout)

    def helm(self, *arguments: str, namespace: str, timeout: float = 300.0) -> str:
        """Standard output of one helm command. Raises DemoError with what helm said."""
        where = [f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={namespace}"]
        return _run([str(binary("helm")), *arguments, *where], None, timeout)

    def apply(self, text: str) -> str:
        """`kubectl apply` of YAML; what changed, a line for each object."""
        return self.kubectl("apply", "-f", "-", stdin=text)

    def apply_template(self, name: str, **fields: str) -> str:
        """`apply` of a file of manifests/ with its placeholders filled in."""
        return self.apply(Template((MANIFESTS / name).read_text()).substitute(fields, NAMESPACE=NAMESPACE))

    def find(self, kind: str, name: str = "", namespace: str = NAMESPACE) -> dict[str, Any] | None:
        """An object (a list of them without a name), or None."""
        wanted = [kind, *([name] if name else [])]
        said = self.kubectl("get", *wanted, "--output=json", "--ignore-not-found", namespace=namespace)
        found: dict[str, Any] | None = json.loads(said) if said.strip() else None
        return found

    def rolled_out(self, workload: str, *, timeout: int = 180) -> None:
        """Returns once a Deployment is complete."""
        self.kubectl("rollout", "status", workload, f"--timeout={timeout}s", timeout=timeout + 15)

    def nodes(self) -> list[Mapping[str, Any]]:
        """The nodes that pods may be scheduled on."""
        found = self.find("nodes") or {"items": []}
        return [node for node in found["items"] if not node["spec"].get("unschedulable")]


def condition(resource: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One condition of a resource; empty where it has none of that type."""
    found = resource.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind), {})


def _run(argv: list[str], stdin: str | None, timeout: float) -> str:
    shown = f"{Path(argv[0]).name} {' '.join(word for word in argv[1:] if not word.startswith('--kubeconfig='))}"
    try:
        done = subprocess.run(
            argv, input=stdin or "", capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"gave up after {timeout:.0f} s: {shown}") from error
    if done.returncode != 0:
        raise DemoError(f"exit {done.returncode}: {shown}\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout
