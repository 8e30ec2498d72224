"""The two programs of a node, containerd and the kubelet: their configuration and their start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from . import cgroups, network, remnants
from .base import ClusterError
from .certs import Authority
from .daemons import Daemons
from .images import PAUSE
from .shell import run, wait_for
from .toolchain import binary
from .topology import CLUSTER_DOMAIN, MAIN_ADDRESS, Node

_CONTAINERD = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"""


def containerd_name(node: Node) -> str:
    """What the node's containerd is called among the daemons."""
    return f"containerd-{node.index}"


def kubelet_name(node: Node) -> str:
    """What the node's kubelet is called among the daemons."""
    return f"kubelet-{node.index}"


def start_containerd(daemons: Daemons, node: Node) -> None:
    """Start the node's container runtime; it answers once `wait_containerd` has returned."""
    node.run.mkdir(parents=True, exist_ok=True)
    cni = node.folder / "cni"
    network.write_cni(node, cni)
    config = node.folder / "containerd.toml"
    settings = {"root": node.folder / "containerd", "state": node.run / "containerd", "socket": node.socket}
    config.write_text(_CONTAINERD.format(**settings, cni=cni, pause=PAUSE))
    daemons.start(containerd_name(node), ["containerd", f"--config={config}", "--log-level=warn"])


def wait_containerd(daemons: Daemons, node: Node, *, timeout: float = 30.0) -> None:
    """Return once the node's container runtime answers."""

    def probe() -> str | None:
        daemons.check(containerd_name(node))
        if not node.socket.exists():
            return f"no {node.socket}"
        try:
            ctr(node, "version", timeout=10)
        except ClusterError as exc:
            return str(exc)
        return None

    wait_for(f"containerd of {node.name}", probe, timeout=timeout)


def ctr(node: Node, *arguments: str, timeout: float = 60.0) -> str:
    """Standard output of containerd's own client, in the namespace that the kubelet's containers are in."""
    return run(["ctr", f"--address={node.socket}", "--namespace=k8s.io", *arguments], timeout=timeout)


def start_kubelet(daemons: Daemons, authority: Authority, server: str, node: Node) -> None:
    """Start the node's agent; it registers the node by itself."""
    cgroups.create(node.cgroup)
    kubeconfig = authority.kubeconfig(node.name, server, user=f"system:node:{node.name}", groups=("system:nodes",))
    root = node.folder / "kubelet"
    config = node.folder / "kubelet.json"
    config.write_text(json.dumps(_kubelet(authority, node), indent=1))
    argv: list[str | Path] = [
        binary("kubelet"),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--root-dir={root}",
        f"--cert-dir={root / 'pki'}",
        f"--node-labels=podium.local/node={node.index}",
    ]
    daemons.start(kubelet_name(node), argv)


def remove(node: Node) -> None:
    """Remove what a node leaves behind once its programs have stopped: containers, mounts, files."""
    remnants.kill_shims(node.socket, node.run / "containerd")
    for folder in (node.folder, node.run):
        remnants.unmount_below(folder)
        if folder.exists():
            shutil.rmtree(folder)


def remove_from_machine(node: Node) -> None:
    """Remove what a node leaves in places that every checkout's node of that name shares."""
    remnants.remove_fixed_places(_pod_logs(node), [node.pod_network])
    cgroups.remove(node.cgroup)


def _pod_logs(node: Node) -> Path:
    return node.folder / "pod-logs"


def _kubelet(authority: Authority, node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": 10250,
        "healthzBindAddress": node.address,
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(authority.certificate)}},
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "clusterDNS": [MAIN_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "registerWithTaints": [],
        # Images come from this machine alone: removing one for want of space could not be undone by a pull.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "nodeStatusUpdateFrequency": "5s",
        "volumePluginDir": str(node.folder / "volume-plugins"),
        "podLogsDir": str(_pod_logs(node)),
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
        "maxPods": 110,
    }
