"""Podium on a cluster: images built and loaded, the chart installed, the operator's pods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e.clusters.base import Cluster
from e2e.clusters.paths import REPOSITORY
from e2e.clusters.shell import run, say
from e2e.clusters.toolchain import binary

from .kubectl import Kubectl, Object
from .served import is_ready
from .waiting import eventually

RELEASE = "podium"
NAMESPACE = "podium-system"
OPERATOR = "app.kubernetes.io/component=operator"
_CHART = REPOSITORY / "charts" / "podium"
# What each image is made of: its tag follows from the content, so that an unchanged one is neither built nor loaded.
_INPUTS = {
    "podium-operator": ("images/operator", "requirements/operator.txt", "crds", "operator"),
    "podium-runtime": ("images/runtime", "requirements/runtime.txt", "crds", "runtime"),
}
_SHARED = ("pyproject.toml", "README.md", "images/python-root.sh", "images/build-requirements.txt", ".dockerignore")
# The tests' models need no torch, and an image without it is small.
_ARGUMENTS = {"podium-runtime": {"REQUIREMENTS": "runtime"}}


@dataclass(frozen=True, slots=True)
class Images:
    """Names of the images under test, on every node."""

    operator: str
    runtime: str


def build(cluster: Cluster) -> Images:
    """Build both images from this checkout and load them; what is unchanged since the last time is left alone."""
    names = {name: f"localhost/{name}:e2e-{_content(name)}" for name in _INPUTS}
    missing = {name: tag for name, tag in names.items() if not _on_every_node(cluster, tag)}
    for name, tag in missing.items():
        say(f"  {tag}: building")
        dockerfile = REPOSITORY / "images" / name.removeprefix("podium-") / "Dockerfile"
        cluster.build_image(dockerfile, REPOSITORY, tag, _ARGUMENTS.get(name, {}))
    if missing:
        say(f"  loading {', '.join(missing.values())}")
        cluster.load_images(list(missing.values()))
    return Images(names["podium-operator"], names["podium-runtime"])


@dataclass(frozen=True, slots=True)
class Installation:
    """The installed release; `kubectl` is bound to its namespace."""

    kubectl: Kubectl
    images: Images

    def upgrade(self, *values: str) -> None:
        """`helm upgrade --install` with the images under test and further `key=value` pairs, and wait."""
        operator, _, operator_tag = self.images.operator.rpartition(":")
        runtime, _, runtime_tag = self.images.runtime.rpartition(":")
        pairs = [
            f"operator.image.repository={operator}",
            f"operator.image.tag={operator_tag}",
            f"runtime.image.repository={runtime}",
            f"runtime.image.tag={runtime_tag}",
            "operator.logLevel=DEBUG",
            *values,
        ]
        # What is a number in the chart's schema must not become text.
        kinds = ["--set" if pair.partition("=")[2].isdecimal() else "--set-string" for pair in pairs]
        sets = [argument for kind, pair in zip(kinds, pairs, strict=True) for argument in (kind, pair)]
        wait = ["--create-namespace", "--wait", "--timeout=3m"]
        self.helm("upgrade", "--install", RELEASE, str(_CHART), *wait, *sets)

    def uninstall(self) -> None:
        """Remove the release and its namespace. The CRDs stay, as the chart promises."""
        self.helm("uninstall", RELEASE, "--ignore-not-found", "--wait", "--timeout=2m")
        self.kubectl.delete("namespace", NAMESPACE)

    def remove_crds(self) -> None:
        """Remove the CRDs, unless somebody has resources of theirs left."""
        for plural in ("inferencemodels.podium.dev", "inferencepipelines.podium.dev"):
            if not self.kubectl.list(plural, everywhere=True):
                self.kubectl.delete("crd", plural)

    def helm(self, *arguments: str) -> str:
        """One helm command in the release's namespace."""
        where = [f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={self.kubectl.namespace}"]
        return run([binary("helm"), *arguments, *where], timeout=300)

    def operators(self) -> list[Object]:
        """The operator's pods that are not on their way out."""
        pods = self.kubectl.list("pods", selector=OPERATOR)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def operator(self) -> Object:
        """The one operator pod, ready."""
        pods = eventually(
            "one operator pod is ready",
            self.operators,
            lambda found: len(found) == 1 and is_ready(found[0]),
            timeout=90,
        )
        return pods[0]


def _content(name: str) -> str:
    digest = hashlib.sha256(json.dumps(_ARGUMENTS.get(name, {})).encode())
    for path in _files(*_INPUTS[name], *_SHARED):
        digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _files(*names: str) -> Iterator[Path]:
    for name in names:
        top = REPOSITORY / name
        found = sorted(top.rglob("*")) if top.is_dir() else [top]
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _on_every_node(cluster: Cluster, tag: str) -> bool:
    """Whether every node lists the image. A node lists only its largest 50, so that False may also mean unknown."""
    nodes = Kubectl(cluster.kubeconfig).list("nodes")
    return all(any(tag in (image.get("names") or []) for image in node["status"].get("images", [])) for node in nodes)
