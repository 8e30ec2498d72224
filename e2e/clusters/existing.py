"""A cluster that someone else runs, used because the user named its kubeconfig."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .base import ClusterError
from .kubectl import kubectl, set_extended_resource
from .shell import show


class ExistingCluster:
    """Implements `base.Cluster` on PODIUM_KUBECONFIG. It is never created nor removed from here."""

    kind = "existing"

    @property
    def kubeconfig(self) -> Path:
        """See `base.Cluster`."""
        given = os.environ.get("PODIUM_KUBECONFIG")
        if not given:
            raise ClusterError("PODIUM_CLUSTER=existing needs PODIUM_KUBECONFIG, the path of a kubeconfig")
        path = Path(given).expanduser().resolve()
        if not path.is_file():
            raise ClusterError(f"PODIUM_KUBECONFIG: no file {path}")
        return path

    def up(self) -> None:
        """See `base.Cluster`. Only checks that the cluster answers."""
        if not self.nodes():
            raise ClusterError("the existing cluster answers, but has no node that pods may be scheduled on")

    def down(self) -> None:
        """See `base.Cluster`. Does nothing: the cluster is not ours."""

    def status(self) -> str:
        """See `base.Cluster`."""
        return kubectl(self.kubeconfig, "get", "nodes", "-o", "wide").strip()

    def nodes(self) -> Sequence[str]:
        """See `base.Cluster`."""
        items = json.loads(kubectl(self.kubeconfig, "get", "nodes", "-o", "json"))["items"]
        return [item["metadata"]["name"] for item in items if not item["spec"].get("unschedulable")]

    def build_image(self, dockerfile: Path, context: Path, tag: str, build_args: Mapping[str, str]) -> None:
        """See `base.Cluster`. With the engine PODIUM_ENGINE names, docker unless set."""
        engine = os.environ.get("PODIUM_ENGINE", "docker")
        flags = [f"--build-arg={key}={value}" for key, value in build_args.items()]
        show([engine, "build", *flags, "--file", dockerfile, "--tag", tag, context], timeout=3600)

    def load_images(self, tags: Sequence[str]) -> None:
        """See `base.Cluster`. How images reach this cluster's nodes is its owner's knowledge: PODIUM_IMAGE_LOAD."""
        command = os.environ.get("PODIUM_IMAGE_LOAD")
        if not command:
            raise ClusterError("an existing cluster needs PODIUM_IMAGE_LOAD, a command that is given an image's name")
        for tag in tags:
            show([*command.split(), tag], timeout=1800)

    def set_extended_resource(self, node: str, resource: str, count: int) -> None:
        """See `base.Cluster`."""
        set_extended_resource(self.kubeconfig, node, resource, count)
