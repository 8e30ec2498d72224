"""A kind cluster, where a container engine answers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .kubectl import kubectl, set_extended_resource
from .paths import state_dir
from .shell import run, say, show
from .toolchain import binary

_NAME = "podium"
_CONFIG = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
  - role: worker
  - role: worker
"""


def engine() -> str | None:
    """The container engine that answers here, `docker` or `podman`, or None."""
    for name in ("docker", "podman"):
        if shutil.which(name) is None:
            continue
        try:
            done = subprocess.run([name, "ps"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return name
    return None


class KindCluster:
    """Implements `base.Cluster` with kind: a control plane and two workers, each a container."""

    kind = "kind"

    def __init__(self, container_engine: str) -> None:
        self._engine = container_engine
        self._env = {"KIND_EXPERIMENTAL_PROVIDER": container_engine}

    @property
    def kubeconfig(self) -> Path:
        """See `base.Cluster`."""
        return state_dir() / "kind.kubeconfig"

    def up(self) -> None:
        """See `base.Cluster`."""
        state_dir().mkdir(parents=True, exist_ok=True)
        if _NAME not in self._kind("get", "clusters").split():
            say("  kind: creating a cluster of three nodes (its node image is fetched once)")
            config = state_dir() / "kind.yaml"
            config.write_text(_CONFIG)
            argv = ["create", "cluster", f"--name={_NAME}", f"--config={config}", "--wait=180s"]
            show([self._program(), *argv, f"--kubeconfig={self.kubeconfig}"], timeout=900, env=self._env)
        if not self.kubeconfig.exists():
            self._kind("export", "kubeconfig", f"--name={_NAME}", f"--kubeconfig={self.kubeconfig}")
        kubectl(self.kubeconfig, "wait", "nodes", "--all", "--for=condition=Ready", "--timeout=120s", timeout=150)

    def down(self) -> None:
        """See `base.Cluster`."""
        if state_dir().exists():
            self._kind("delete", "cluster", f"--name={_NAME}", f"--kubeconfig={self.kubeconfig}")
            shutil.rmtree(state_dir())

    def status(self) -> str:
        """See `base.Cluster`."""
        if _NAME not in self._kind("get", "clusters").split():
            return "kind cluster: down"
        nodes = kubectl(self.kubeconfig, "get", "nodes", "-o", "wide").strip()
        return f"{nodes}\nkubeconfig: {self.kubeconfig}"

    def nodes(self) -> Sequence[str]:
        """See `base.Cluster`."""
        return [f"{_NAME}-worker", f"{_NAME}-worker2"]

    def build_image(self, dockerfile: Path, context: Path, tag: str, build_args: Mapping[str, str]) -> None:
        """See `base.Cluster`."""
        flags = [f"--build-arg={key}={value}" for key, value in build_args.items()]
        show([self._engine, "build", *flags, "--file", dockerfile, "--tag", tag, context], timeout=3600)

    def load_images(self, tags: Sequence[str]) -> None:
        """See `base.Cluster`."""
        if self._engine == "docker":
            argv = [self._program(), "load", "docker-image", f"--name={_NAME}", *tags]
            show(argv, timeout=1800, env=self._env)
            return
        # podman keeps an image called NAME as localhost/NAME; an archive lets the nodes have the name that pods write.
        for tag in tags:
            with tempfile.TemporaryDirectory() as folder:
                archive = Path(folder) / "image.tar"
                full = tag if "/" in tag else f"docker.io/library/{tag}"
                run([self._engine, "tag", tag, full], timeout=60)
                run([self._engine, "save", "--output", archive, full], timeout=1800)
                self._kind("load", "image-archive", f"--name={_NAME}", str(archive), timeout=1800)

    def set_extended_resource(self, node: str, resource: str, count: int) -> None:
        """See `base.Cluster`."""
        set_extended_resource(self.kubeconfig, node, resource, count)

    def _program(self) -> str:
        return shutil.which("kind") or str(binary("kind"))

    def _kind(self, *arguments: str, timeout: float = 120.0) -> str:
        return run([self._program(), *arguments], timeout=timeout, env=self._env)
