"""etcd and kube-apiserver, which hold a cluster's state, as the tests and the built cluster start them."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .base import ClusterError
from .certs import Authority
from .daemons import Daemons
from .shell import wait_for
from .toolchain import binary

ADMIN_GROUP = "system:masters"


@dataclass(frozen=True)
class Endpoint:
    """Where an API server listens. `services` is the range of Service addresses; its first one is the server's own."""

    address: str
    port: int
    services: str = "10.96.0.0/16"
    extra_flags: Sequence[str] = field(default_factory=tuple)

    @property
    def url(self) -> str:
        """The server's base address."""
        return f"https://{self.address}:{self.port}"

    @property
    def service_address(self) -> str:
        """The address of the `kubernetes` Service."""
        return self.services.partition("/")[0].rpartition(".")[0] + ".1"


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports that nothing listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((address, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def start(daemons: Daemons, authority: Authority, data: Path, endpoint: Endpoint, *, timeout: float = 60.0) -> Path:
    """Start etcd and kube-apiserver, and return the administrator's kubeconfig once `/readyz` says ok."""
    client, peer = free_ports(2)
    store = f"http://127.0.0.1:{client}"
    daemons.start("etcd", _etcd(data, store, f"http://127.0.0.1:{peer}"))
    daemons.start("kube-apiserver", _apiserver(authority, store, endpoint))
    kubeconfig = authority.kubeconfig("admin", endpoint.url, user="podium-admin", groups=(ADMIN_GROUP,))
    wait_ready(daemons, authority, endpoint, timeout=timeout)
    return kubeconfig


def wait_ready(daemons: Daemons, authority: Authority, endpoint: Endpoint, *, timeout: float) -> None:
    """Return once `/readyz` says ok; else raise with the ends of both logs, at once if a program exited."""

    def probe() -> str | None:
        for name in ("etcd", "kube-apiserver"):
            daemons.check(name)
        return readiness(authority, endpoint)

    try:
        wait_for("kube-apiserver ready", probe, timeout=timeout)
    except ClusterError as exc:
        tails = "\n".join(f"--- {name}\n{daemons.tail(name)}" for name in ("etcd", "kube-apiserver"))
        raise ClusterError(f"{exc}\n{tails}") from exc


def readiness(authority: Authority, endpoint: Endpoint) -> str | None:
    """None when the server calls itself ready, else what it answered."""
    certificate, key = authority.issue("admin", user="podium-admin", groups=(ADMIN_GROUP,))
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(certificate, key)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"{endpoint.url}/readyz", timeout=5) as answer:
            answer.read()
    except urllib.error.HTTPError as exc:
        failed = [line for line in exc.read().decode(errors="replace").splitlines() if line.startswith("[-]")]
        return f"HTTP {exc.code} {' '.join(failed)}"
    except OSError as exc:
        return str(exc)
    return None


def _etcd(data: Path, client: str, peer: str) -> list[str | Path]:
    return [
        binary("etcd"),
        f"--data-dir={data / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver(authority: Authority, store: str, endpoint: Endpoint) -> list[str | Path]:
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    hosts = [f"DNS:{name}" for name in names] + [f"IP:{endpoint.address}", f"IP:{endpoint.service_address}"]
    serving, serving_key = authority.issue("kube-apiserver", user="kube-apiserver", hosts=hosts)
    kubelet, kubelet_key = authority.issue("kubelet-client", user="kube-apiserver", groups=(ADMIN_GROUP,))
    return [
        binary("kube-apiserver"),
        f"--etcd-servers={store}",
        f"--bind-address={endpoint.address}",
        f"--advertise-address={endpoint.address}",
        f"--secure-port={endpoint.port}",
        f"--service-cluster-ip-range={endpoint.services}",
        f"--client-ca-file={authority.certificate}",
        f"--tls-cert-file={serving}",
        f"--tls-private-key-file={serving_key}",
        f"--kubelet-client-certificate={kubelet}",
        f"--kubelet-client-key={kubelet_key}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={authority.public_key('service-account')}",
        f"--service-account-signing-key-file={authority.key('service-account')}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        *endpoint.extra_flags,
    ]
