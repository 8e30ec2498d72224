"""The interface of a cluster, and the error that every implementation raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class ClusterError(RuntimeError):
    """A cluster, or something it needs, could not be had; the message says what was tried and what to do."""


class Cluster(Protocol):
    """A Kubernetes cluster that this machine's tests may use as its administrator."""

    @property
    def kind(self) -> str:
        """`existing`, `kind` or `built`."""
        ...

    @property
    def kubeconfig(self) -> Path:
        """Administrator's kubeconfig; the file exists once `up` has returned."""
        ...

    def up(self) -> None:
        """Return once the API server answers and every node is Ready. Does nothing to a healthy cluster."""
        ...

    def down(self) -> None:
        """Remove everything that `up` made. Safe to call twice, and after a failed `up`."""
        ...

    def status(self) -> str:
        """One observation per line, for a person."""
        ...

    def nodes(self) -> Sequence[str]:
        """Names of the nodes that pods may be scheduled on."""
        ...

    def build_image(self, dockerfile: Path, context: Path, tag: str, build_args: Mapping[str, str]) -> None:
        """Build an image on this machine; layers that have not changed are reused."""
        ...

    def load_images(self, tags: Sequence[str]) -> None:
        """Make built images usable on every node under the same names, with `imagePullPolicy: IfNotPresent`."""
        ...

    def set_extended_resource(self, node: str, resource: str, count: int) -> None:
        """Let `node` advertise `count` of an extended resource such as `nvidia.com/gpu`; 0 takes it away again."""
        ...
