"""A real cluster of two nodes on this machine, from the upstream components, where no container engine runs.

Needs root on Linux. Every program runs straight on the machine, is recorded under the state folder, and is stopped by
its process id; containers run in two containerds of their own. See `topology` for addresses.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import apiserver, debian, images, loading, network, nodes, teardown, toolchain
from .base import ClusterError
from .certs import Authority
from .daemons import Daemon, start_time
from .kubectl import kubectl, set_extended_resource
from .paths import state_dir
from .shell import locked, say, wait_for
from .system import apply_defaults, start_controllers, start_network_services
from .topology import API_PORT, MAIN_ADDRESS, SERVICE_RANGE, Site

_LOCK = Path("/run/podium-cluster.lock")


def unsupported() -> str | None:
    """Why this machine cannot run the built cluster, or None."""
    if platform.system() != "Linux":
        return f"the built cluster needs Linux, and this is {platform.system()}"
    if os.geteuid() != 0:
        return "the built cluster needs root"
    return None


class BuiltCluster:
    """Implements `base.Cluster`. One per machine: its bridge, addresses and packet-filter rules are the machine's."""

    kind = "built"

    def __init__(self) -> None:
        self._site = Site(state_dir())
        self._daemons = self._site.daemons
        self._endpoint = apiserver.Endpoint(MAIN_ADDRESS, API_PORT, SERVICE_RANGE)

    @property
    def kubeconfig(self) -> Path:
        """See `base.Cluster`."""
        return self._site.state / "certs" / "admin.kubeconfig"

    def up(self) -> None:
        """See `base.Cluster`. Anything but a wholly healthy cluster is taken down first and made again."""
        reason = unsupported()
        if reason:
            raise ClusterError(reason)
        with locked(_LOCK, timeout=1800):
            teardown.clear_for(self._site)
            self._refuse_another_kubelet()
            if self._daemons.recorded() and self._ill() is None:
                return
            started = time.monotonic()
            debian.install(debian.NODE)
            for name in (*toolchain.CONTROL_PLANE, *toolchain.NODE):
                toolchain.binary(name)
            images.ensure_pause()
            teardown.remove(self._site)
            say("  cluster: starting")
            self._start()
            say(f"  cluster: {len(self._site.nodes)} nodes Ready, {time.monotonic() - started:.0f} s")

    def down(self) -> None:
        """See `base.Cluster`. The logs stay until the next `up`."""
        if unsupported() is None:
            with locked(_LOCK, timeout=600):
                teardown.remove(self._site)

    def status(self) -> str:
        """See `base.Cluster`."""
        recorded = self._daemons.recorded()
        if not recorded:
            return "built cluster: down"
        lines = [f"{each.name}: {'running' if each.alive else 'EXITED'}, process {each.pid}" for each in recorded]
        return "\n".join([*lines, f"cluster: {self._ill() or 'healthy'}", f"kubeconfig: {self.kubeconfig}"])

    def nodes(self) -> Sequence[str]:
        """See `base.Cluster`."""
        return [node.name for node in self._site.nodes]

    def build_image(self, dockerfile: Path, context: Path, tag: str, build_args: Mapping[str, str]) -> None:
        """See `base.Cluster`."""
        images.build(dockerfile, context, tag, build_args)

    def load_images(self, tags: Sequence[str]) -> None:
        """See `base.Cluster`."""
        with images.stored(tags) as found:
            loading.load(found, self._site.nodes)

    def set_extended_resource(self, node: str, resource: str, count: int) -> None:
        """See `base.Cluster`."""
        set_extended_resource(self.kubeconfig, node, resource, count)

    def api_server(self) -> Daemon:
        """The process of the API server, for tests that halt it."""
        return next(each for each in self._daemons.recorded() if each.name == "kube-apiserver")

    def _start(self) -> None:
        teardown.claim(self._site)
        network.up(self._site)
        authority = Authority(self._site.state / "certs")
        for node in self._site.nodes:
            nodes.start_containerd(self._daemons, node)
        apiserver.start(self._daemons, authority, self._site.state / "data", self._endpoint)
        start_controllers(self._daemons, authority, self._endpoint)
        apply_defaults(self.kubeconfig)
        start_network_services(self._daemons, authority, self._endpoint, self._site.state)
        for node in self._site.nodes:
            nodes.wait_containerd(self._daemons, node)
        self.load_images([images.PAUSE])
        for node in self._site.nodes:
            nodes.start_kubelet(self._daemons, authority, self._endpoint.url, node)
        wait_for("nodes Ready", self._unready, timeout=90, every=0.3)

    def _ill(self) -> str | None:
        exited = [each.name for each in self._daemons.recorded() if not each.alive]
        if exited:
            return f"exited: {' '.join(exited)}"
        if not self.kubeconfig.exists():
            return "never came up"
        return apiserver.readiness(Authority(self._site.state / "certs"), self._endpoint) or self._unready()

    def _unready(self) -> str | None:
        for each in self._daemons.recorded():
            self._daemons.check(each.name)
        try:
            listed = json.loads(kubectl(self.kubeconfig, "get", "nodes", "-o", "json", timeout=15))
        except ClusterError as exc:
            return str(exc)
        states = {item["metadata"]["name"]: _readiness(item) for item in listed["items"]}
        missing = [f"{node.name}: {states.get(node.name, 'not registered')}" for node in self._site.nodes]
        return None if all(states.get(node.name) == "Ready" for node in self._site.nodes) else "; ".join(missing)

    def _refuse_another_kubelet(self) -> None:
        ours = {each.pid for each in self._site.daemons.recorded()}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in ours and _comm(entry) == "kubelet":
                raise ClusterError(f"this machine is a Kubernetes node already (kubelet, process {entry.name})")


def _readiness(item: dict[str, dict[str, list[dict[str, str]]]]) -> str:
    for condition in item["status"].get("conditions", []):
        if condition["type"] == "Ready":
            return "Ready" if condition["status"] == "True" else condition["message"]
    return "no Ready condition yet"


def _comm(entry: Path) -> str:
    try:
        return (entry / "comm").read_text().strip() if start_time(int(entry.name)) else ""
    except OSError:
        return ""
