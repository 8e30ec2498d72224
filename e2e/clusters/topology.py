"""The addresses and folders of the built cluster: two nodes on one machine, each with a pod network of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .paths import state_dir

BRIDGE = "podium0"
HOST_PREFIX = 24
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
API_PORT = 6443
CLUSTER_DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Node:
    """One node: a containerd and a kubelet. Sockets lie under /run, because their paths must be short."""

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
        return state_dir() / self.name

    @property
    def run(self) -> Path:
        """Its sockets and containerd's run-time state."""
        return run_dir() / self.name

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return self.run / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """The cgroup that its pods are in."""
        return f"/{self.name}"


NODES = (Node(1), Node(2))
MAIN_ADDRESS = NODES[0].address


def run_dir() -> Path:
    """Sockets of this checkout's cluster; the name depends on where the checkout lies."""
    return Path("/run") / f"podium-{hashlib.sha256(str(state_dir()).encode()).hexdigest()[:8]}"
