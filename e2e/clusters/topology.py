"""The addresses and folders of the built cluster: two nodes on one machine, each with a pod network of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .daemons import Daemons

BRIDGE = "podium0"
HOST_PREFIX = 24
MAIN_ADDRESS = "10.251.0.1"
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
API_PORT = 6443
CLUSTER_DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Site:
    """Where the cluster of one checkout lies: data in the checkout, what a reboot ends in a folder under /run.

    The latter also keeps socket paths short, and outlives a checkout that was deleted with its cluster running.
    """

    state: Path

    @property
    def run(self) -> Path:
        """Process ids, sockets and run-time state; the name depends on where the checkout lies."""
        return Path("/run") / f"podium-{hashlib.sha256(str(self.state).encode()).hexdigest()[:8]}"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its two nodes."""
        return Node(self, 1), Node(self, 2)

    @property
    def daemons(self) -> Daemons:
        """Its programs."""
        return Daemons(records=self.run / "pids", logs=self.state / "logs")


@dataclass(frozen=True)
class Node:
    """One node: a containerd and a kubelet."""

    site: Site
    index: int

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        return f"podium-node{self.index}"

    @property
    def address(self) -> str:
        """Its InternalIP, an address of the bridge device."""
        return f"10.251.0.{self.index}"

    @property
    def pod_range(self) -> str:
        """Addresses of the pods that run on it."""
        return f"10.244.{self.index}.0/24"

    @property
    def pod_bridge(self) -> str:
        """The bridge device that its pods hang on."""
        return f"podium-pods{self.index}"

    @property
    def pod_network(self) -> str:
        """What CNI calls the network of its pods."""
        return f"podium-{self.index}"

    @property
    def folder(self) -> Path:
        """Its data, configuration and kubelet root."""
        return self.site.state / self.name

    @property
    def run(self) -> Path:
        """Its sockets and containerd's run-time state."""
        return self.site.run / self.name

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return self.run / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """The cgroup that its pods are in."""
        return f"/{self.name}"
