"""Programs that come from the distribution: installed or unpacked where that is possible, named where it is not."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .base import ClusterError
from .paths import cache_dir
from .shell import locked, run, say

_APT_TIMEOUT = 900.0


@dataclass(frozen=True)
class Package:
    """A Debian package, and the file or program by which its presence is known."""

    name: str
    provides: str

    @property
    def present(self) -> bool:
        """Whether this machine has it, from whatever source."""
        if self.provides.startswith("/"):
            return Path(self.provides).exists()
        return shutil.which(self.provides) is not None


NODE = (
    Package("containerd", "containerd"),
    Package("runc", "runc"),
    Package("containernetworking-plugins", "/usr/lib/cni/bridge"),
    Package("conntrack", "conntrack"),
    Package("iptables", "iptables"),
    Package("iproute2", "ip"),
    Package("openssl", "openssl"),
)
IMAGES = (
    Package("buildah", "buildah"),
    Package("crun", "crun"),
    Package("netavark", "/usr/lib/podman/netavark"),
    Package("debootstrap", "debootstrap"),
    Package("gcc", "gcc"),
    Package("libc6-dev", "/usr/include/stdio.h"),
)


def unpacked(package: str) -> Path:
    """The root of the package's own files in the cache, fetched where they are not there: nothing is installed, so that
    no service of it starts. Raises ClusterError."""
    folder = cache_dir() / "debian" / package
    if folder.exists():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ClusterError(f"the Debian package {package} is not to be had: this machine has no apt-get")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / ".lock", timeout=_APT_TIMEOUT):
        if not folder.exists():
            _unpack(package, folder)
    return folder


def _unpack(package: str, folder: Path) -> None:
    say(f"  fetching the Debian package {package}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as held:
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package]
        try:
            run(download, timeout=_APT_TIMEOUT, cwd=Path(held))
        except ClusterError:
            if os.geteuid() != 0:
                raise
            run(["apt-get", "update", "-qq"], timeout=_APT_TIMEOUT)  # its lists are old, or were never there
            run(download, timeout=_APT_TIMEOUT, cwd=Path(held))
        [archive] = Path(held).glob("*.deb")
        run(["dpkg-deb", "--extract", archive, Path(held) / "root"], timeout=_APT_TIMEOUT)
        (Path(held) / "root").rename(folder)


def install(packages: tuple[Package, ...]) -> None:
    """Install what is missing with apt-get, saying so; raises ClusterError naming it where that cannot be done."""
    missing = [package.name for package in packages if not package.present]
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise ClusterError(f"missing on this machine (by their Debian names): {names}")
    if os.geteuid() != 0:
        raise ClusterError(f"missing on this machine; install them as root: apt-get install {names}")
    say(f"  installing Debian packages: {names}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], timeout=_APT_TIMEOUT, env=quiet)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], timeout=_APT_TIMEOUT, env=quiet)
    absent = [package.name for package in packages if not package.present]
    if absent:
        raise ClusterError(f"installed, and yet not found: {' '.join(absent)}")
