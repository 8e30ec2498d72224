"""What turns an API server into a cluster: controllers, scheduler, Service addresses and names."""

from __future__ import annotations

import json
from pathlib import Path

from . import network
from .apiserver import Endpoint
from .certs import Authority
from .daemons import Daemons
from .shell import Argv, run
from .toolchain import binary
from .topology import CLUSTER_DOMAIN, MAIN_ADDRESS, POD_RANGE

_DNS_USER = "podium:coredns"
_COREFILE = """\
{domain} in-addr.arpa ip6.arpa {{
    bind {address}
    errors
    kubernetes {domain} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig} podium
        pods verified
        ttl 5
    }}
    cache 5
}}
. {{
    bind {address}
    errors
    forward . /etc/resolv.conf
    cache 30
}}
"""


def start_controllers(daemons: Daemons, authority: Authority, endpoint: Endpoint) -> None:
    """Start controller manager and scheduler; only against a ready API server, or they exit for want of rights."""
    manager = authority.kubeconfig("controller-manager", endpoint.url, user="system:kube-controller-manager")
    scheduler = authority.kubeconfig("scheduler", endpoint.url, user="system:kube-scheduler")
    daemons.start(
        "kube-controller-manager",
        [
            binary("kube-controller-manager"),
            f"--kubeconfig={manager}",
            f"--authentication-kubeconfig={manager}",
            f"--authorization-kubeconfig={manager}",
            f"--service-account-private-key-file={authority.key('service-account')}",
            f"--root-ca-file={authority.certificate}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--allocate-node-cidrs=false",
            "--secure-port=0",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--horizontal-pod-autoscaler-sync-period=5s",
        ],
    )
    daemons.start(
        "kube-scheduler",
        [
            binary("kube-scheduler"),
            f"--kubeconfig={scheduler}",
            f"--authentication-kubeconfig={scheduler}",
            f"--authorization-kubeconfig={scheduler}",
            "--leader-elect=false",
            "--secure-port=0",
        ],
    )


def apply_defaults(kubeconfig: Path) -> None:
    """Objects that every cluster has: the rights of its DNS server."""
    reader = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "podium-coredns"}
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    api = "rbac.authorization.k8s.io/v1"
    metadata = {"name": "podium-coredns"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": _DNS_USER}
    items = [
        {"apiVersion": api, "kind": "ClusterRole", "metadata": metadata, "rules": rules},
        {
            "apiVersion": api,
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": reader,
            "subjects": [subject],
        },
    ]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    argv: Argv = [binary("kubectl"), f"--kubeconfig={kubeconfig}", "apply", "--server-side", "-f", "-"]
    run(argv, stdin=manifest, timeout=60)


def start_network_services(daemons: Daemons, authority: Authority, endpoint: Endpoint, folder: Path) -> None:
    """Start kube-proxy, one for both nodes because they share the machine's packet filter, and CoreDNS.

    Their configuration is written to `folder`.
    """
    proxy = authority.kubeconfig("kube-proxy", endpoint.url, user="system:kube-proxy")
    settings = folder / "kube-proxy.json"
    settings.write_text(json.dumps(_proxy(proxy), indent=1))
    daemons.start("kube-proxy", [binary("kube-proxy"), f"--config={settings}"])
    dns = authority.kubeconfig("coredns", endpoint.url, user=_DNS_USER)
    corefile = folder / "Corefile"
    corefile.write_text(_COREFILE.format(domain=CLUSTER_DOMAIN, address=MAIN_ADDRESS, kubeconfig=dns))
    daemons.start("coredns", [binary("coredns"), "-conf", corefile])


def _proxy(kubeconfig: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": "podium-node1",
        "metricsBindAddress": f"{MAIN_ADDRESS}:10249",
        "healthzBindAddress": f"{MAIN_ADDRESS}:10256",
        "iptables": {"localhostNodePorts": False, "masqueradeAll": not network.filters_bridged_traffic()},
        # Zero leaves the machine's connection-tracking limits as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
