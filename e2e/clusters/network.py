"""The machine's side of the cluster network: node addresses, packet filter, kernel settings; and removing them."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from .base import ClusterError
from .shell import run
from .topology import BRIDGE, HOST_PREFIX, POD_RANGE, SERVICE_RANGE, Node, Site

_SETTINGS = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}
_OURS = ("-m", "comment", "--comment", "podium-cluster")
_RULES = (
    ("nat", "POSTROUTING", ("-s", POD_RANGE, "!", "-d", POD_RANGE, *_OURS, "-j", "MASQUERADE")),
    ("filter", "FORWARD", ("-s", POD_RANGE, *_OURS, "-j", "ACCEPT")),
    ("filter", "FORWARD", ("-d", POD_RANGE, *_OURS, "-j", "ACCEPT")),
)
# kube-proxy and the kubelet name every chain of theirs so.
_CHAIN_PREFIX = "KUBE-"


def up(site: Site) -> None:
    """Node addresses on a bridge device, forwarding between pods, and a way out for pods."""
    if shutil.which("modprobe"):
        for module in ("br_netfilter", "overlay"):
            # Compiled in on some kernels; where it is truly absent, kube-proxy is told to masquerade.
            with contextlib.suppress(ClusterError):
                run(["modprobe", "-q", module], timeout=20)
    _save_settings(site)
    for setting, value in _SETTINGS.items():
        path = Path("/proc/sys") / setting
        if path.exists():
            path.write_text(value)
    if not _device(BRIDGE):
        _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("link", "set", BRIDGE, "up")
    for node in site.nodes:
        _ip("address", "replace", f"{node.address}/{HOST_PREFIX}", "dev", BRIDGE)
    for addresses in (SERVICE_RANGE, POD_RANGE):
        # A packet to a Service without endpoints, or to a pod that is gone, must not leave the machine by the default
        # route. It ends here: nothing on the bridge answers for it. (An unreachable route would come before the DNAT.)
        _ip("route", "replace", addresses, "dev", BRIDGE)
    for table, chain, rule in _RULES:
        try:
            _iptables(table, "-C", chain, *rule)
        except ClusterError:
            _iptables(table, "-I", chain, *rule)


def down(site: Site) -> None:
    """Remove devices, rules and chains of the cluster, and put kernel settings back as they were."""
    for device in (BRIDGE, *(node.pod_bridge for node in site.nodes)):
        if _device(device):
            _ip("link", "delete", device)
    if shutil.which("iptables"):
        for table, chain, rule in _RULES:
            with contextlib.suppress(ClusterError):
                _iptables(table, "-D", chain, *rule)
        for program in ("iptables", "ip6tables"):
            for table in ("filter", "nat", "mangle"):
                _drop_chains(program, table)
    saved = _saved(site)
    if saved.exists():
        for setting, value in json.loads(saved.read_text()).items():
            (Path("/proc/sys") / setting).write_text(value)
        saved.unlink()


def filters_bridged_traffic() -> bool:
    """Whether packets between pods of one bridge pass the packet filter, as Services need."""
    path = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    return path.exists() and path.read_text().strip() == "1"


def write_cni(node: Node, folder: Path) -> None:
    """The CNI configuration of one node's containerd."""
    folder.mkdir(parents=True, exist_ok=True)
    ranges = [[{"subnet": node.pod_range}]]
    bridge = {
        "type": "bridge",
        "bridge": node.pod_bridge,
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(node.run / "cni"),
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    content = {"cniVersion": "0.4.0", "name": node.pod_network, "plugins": [bridge]}
    (folder / "10-podium.conflist").write_text(json.dumps(content, indent=1))


def _drop_chains(program: str, table: str) -> None:
    try:
        listed = run([program, "-w", "5", "-t", table, "-S"], timeout=30).splitlines()
    except ClusterError:
        return
    chains = [line.split()[1] for line in listed if line.startswith(f"-N {_CHAIN_PREFIX}")]
    if not chains:
        return
    own = f"-A {_CHAIN_PREFIX}"
    jumps = [line for line in listed if line.startswith("-A ") and not line.startswith(own)]
    script = [f"*{table}"]
    script += [f":{chain} - [0:0]" for chain in chains]
    script += [f"-D {line[3:]}" for line in jumps if f"-j {_CHAIN_PREFIX}" in line]
    script += [f"-X {chain}" for chain in chains]
    run([f"{program}-restore", "-w", "5", "--noflush"], stdin="\n".join([*script, "COMMIT", ""]), timeout=30)


def _save_settings(site: Site) -> None:
    saved = _saved(site)
    if saved.exists():
        return
    before = {name: Path("/proc/sys") / name for name in _SETTINGS}
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.write_text(json.dumps({name: path.read_text().strip() for name, path in before.items() if path.exists()}))


def _saved(site: Site) -> Path:
    return site.run / "kernel-settings.json"


def _device(name: str) -> bool:
    return (Path("/sys/class/net") / name).exists()


def _ip(*arguments: str) -> None:
    run(["ip", *arguments], timeout=20)


def _iptables(table: str, *arguments: str) -> None:
    run(["iptables", "-w", "5", "-t", table, *arguments], timeout=20)
