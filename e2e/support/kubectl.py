"""kubectl, bound to a cluster and a namespace. JSON in, JSON out; nothing is cached."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2e.clusters.toolchain import binary

from .waiting import eventually

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


class KubectlError(AssertionError):
    """kubectl said no; `said` is what it said."""

    def __init__(self, arguments: Sequence[str], said: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)[:300]}\n{said}")
        self.said = said


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs kubectl as the cluster's administrator."""

    kubeconfig: Path
    namespace: str = "default"

    def within(self, namespace: str) -> Kubectl:
        """The same cluster, another namespace."""
        return replace(self, namespace=namespace)

    def argv(self, *arguments: str) -> list[str]:
        """The whole command line, for programs that run beside the test."""
        return [str(binary("kubectl")), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments]

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Standard output; raises KubectlError for any exit but 0."""
        try:
            done = subprocess.run(
                self.argv(*arguments),
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise KubectlError(arguments, f"gave up after {timeout:g} s") from exc
        if done.returncode != 0:
            raise KubectlError(arguments, (done.stdout + done.stderr).strip()[-4000:])
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply` of the objects, as a user does it."""
        self("apply", "-f", "-", stdin=_list(objects))

    def refusal(self, *objects: Mapping[str, Any]) -> str:
        """What kubectl says when it refuses to apply the objects; fails if it does not."""
        try:
            self.apply(*objects)
        except KubectlError as exc:
            return exc.said
        raise AssertionError(f"was applied, and should have been refused: {json.dumps(objects, default=str)[:1000]}")

    def get(self, kind: str, name: str) -> Object:
        """One object; raises KubectlError where there is none."""
        found: Object = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def find(self, kind: str, name: str) -> Object | None:
        """One object, or None."""
        said = self("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(said) if said.strip() else None

    def list(self, kinds: str, *, selector: str = "", everywhere: bool = False) -> list[Object]:
        """Objects of one or several kinds, separated by commas."""
        scope = ["--all-namespaces"] if everywhere else []
        chosen = [f"--selector={selector}"] if selector else []
        items: list[Object] = json.loads(self("get", kinds, "-o", "json", *scope, *chosen))["items"]
        return items

    def patch(self, kind: str, name: str, change: Mapping[str, Any]) -> None:
        """Merge `change` into an object."""
        self("patch", kind, name, "--type=merge", f"--patch={json.dumps(change)}")

    def delete(self, kind: str, name: str, *options: str, timeout: float = 120.0) -> None:
        """Delete and wait until it is gone; nothing happens where it is not there."""
        self("delete", kind, name, "--ignore-not-found", *options, timeout=timeout)

    def rolled_out(self, workload: str, *, timeout: float = 120.0) -> None:
        """Return once `deployment/name` or the like is complete."""
        self("rollout", "status", workload, f"--timeout={timeout:.0f}s", timeout=timeout + 10)

    def gone(self, kinds: str, *, selector: str, timeout: float) -> None:
        """Return once nothing of those kinds carries those labels."""

        def left() -> list[str]:
            return [f"{item['kind']}/{item['metadata']['name']}" for item in self.list(kinds, selector=selector)]

        eventually(f"nothing left with {selector}", left, lambda names: not names, timeout=timeout)


def _list(objects: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def condition(item: Object, kind: str) -> tuple[str, str]:
    """Status and reason of one condition; ("", "") where it is absent."""
    for found in item.get("status", {}).get("conditions", []):
        if found["type"] == kind:
            return found["status"], found.get("reason", "")
    return "", ""


def age_of_truth(item: Object, kind: str) -> int:
    """observedGeneration of a condition; -1 where it is absent."""
    for found in item.get("status", {}).get("conditions", []):
        if found["type"] == kind:
            return int(found.get("observedGeneration", -1))
    return -1
