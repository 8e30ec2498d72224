"""A real kube-apiserver and etcd for tests: no nodes, no controllers, nothing simulated.

    with ControlPlane() as plane:
        client_for(plane.kubeconfig)

Starts in a few seconds on free loopback ports, in a folder of its own; several run at once. Nothing collects garbage
here (that is the controller manager's work), no ServiceAccount is needed for a Pod, and no Pod is ever scheduled.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from e2e.clusters import apiserver
from e2e.clusters.base import ClusterError
from e2e.clusters.certs import Authority
from e2e.clusters.daemons import Daemons
from e2e.clusters.toolchain import binary

_ATTEMPTS = 3


class ControlPlane:
    """etcd and kube-apiserver between `start` and `stop`. Constructing one starts nothing."""

    def __init__(self, *, extra_flags: tuple[str, ...] = ()) -> None:
        """`extra_flags`: further flags of kube-apiserver, such as `--v=4`."""
        # A loopback address is not allowed as the endpoint of the `kubernetes` Service, so none is kept.
        own = ("--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none")
        self._extra_flags = (*own, *extra_flags)
        self._folder: Path | None = None
        self._endpoint: apiserver.Endpoint | None = None
        self._kubeconfig: Path | None = None

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        if self._kubeconfig is None:
            raise ClusterError("the control plane is not started")
        return self._kubeconfig

    @property
    def url(self) -> str:
        """The API server's base address."""
        if self._endpoint is None:
            raise ClusterError("the control plane is not started")
        return self._endpoint.url

    def start(self, *, timeout: float = 60.0) -> Self:
        """Return once the API server calls itself ready. Raises ClusterError with the ends of the logs."""
        for attempt in range(1, _ATTEMPTS + 1):
            self._folder = Path(tempfile.mkdtemp(prefix="podium-apiserver-"))
            [port] = apiserver.free_ports(1)
            self._endpoint = apiserver.Endpoint("127.0.0.1", port, extra_flags=self._extra_flags)
            authority = Authority(self._folder / "certs")
            try:
                data = self._folder / "data"
                self._kubeconfig = apiserver.start(self._daemons(), authority, data, self._endpoint, timeout=timeout)
            except ClusterError as exc:
                self.stop()
                # Between choosing a free port and listening on it, another process may have taken it.
                if "address already in use" in str(exc) and attempt < _ATTEMPTS:
                    continue
                raise
            except BaseException:
                self.stop()
                raise
            return self
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Stop both programs and remove the folder. Does nothing when called again."""
        if self._folder is not None:
            self._daemons().stop_all(grace=2.0)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._endpoint = self._kubeconfig = None

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output of one kubectl command as the administrator; raises CalledProcessError with stderr."""
        argv = [str(binary("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(argv, input=stdin or "", capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def user_kubeconfig(self, user: str, *groups: str) -> Path:
        """A kubeconfig of some other user, to test what RBAC allows; kubectl's `--as` does it for a service account."""
        name = f"user-{user.replace(':', '-')}"
        return Authority(self._running_folder() / "certs").kubeconfig(name, self.url, user=user, groups=groups)

    def log(self, name: str) -> Path:
        """The log of `etcd` or `kube-apiserver`."""
        return self._daemons().log(name)

    def _running_folder(self) -> Path:
        if self._folder is None:
            raise ClusterError("the control plane is not started")
        return self._folder

    def _daemons(self) -> Daemons:
        folder = self._running_folder()
        return Daemons(records=folder / "pids", logs=folder / "logs")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
