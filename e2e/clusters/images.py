"""Images built on this machine with buildah, without any engine running and without any container registry.

Build storage and pip's cache stay in the user's cache, so that a build repeats only the steps
whose inputs changed.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from . import debian
from .base import ClusterError
from .paths import CLUSTERS, REPOSITORY, cache_dir
from .remnants import unmount_below
from .shell import follow, locked, run, say, shared
from .storage import StoredImage, read

BASE = "localhost/debian:bookworm"
PAUSE = "localhost/podium-pause:1"
_BUILD_TIMEOUT = 3600.0
_PIP_CACHE = "/var/cache/pip"
_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def build(dockerfile: Path, context: Path, tag: str, build_args: Mapping[str, str]) -> None:
    """Build `tag`. `BASE` is the project's own base image unless given; pip uses this machine's settings and cache."""
    debian.install(debian.IMAGES)
    arguments = dict(build_args)
    if "BASE" not in arguments:
        ensure_base()
        arguments["BASE"] = BASE
    flags = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    volumes = [f"--volume={source}:{target}:{mode}" for source, target, mode in _mounts()]
    argv = _buildah("bud", "--isolation=chroot", "--network=host", "--layers", "--pull-never", *flags, *volumes)
    log = cache_dir() / "logs" / f"build-{re.sub(r'[^a-zA-Z0-9.-]', '-', tag)}.log"
    say(f"  image {tag}: building")
    with _storage():
        argv = [*argv, "--file", dockerfile, "--tag", local_name(tag), context]
        follow(argv, log, prefix="STEP", timeout=_BUILD_TIMEOUT)


def ensure_base() -> None:
    """Make the base image unless it is there."""
    debian.install(debian.IMAGES)
    if _exists(BASE):
        return
    folder = cache_dir() / "base"
    with locked(folder / ".lock", timeout=_BUILD_TIMEOUT):
        if _exists(BASE):
            return
        say("  base image: making a Debian root file system with debootstrap (a minute, once)")
        rootfs = folder / "rootfs.tar"
        scripts = REPOSITORY / "images" / "base"
        if os.geteuid() != 0:
            raise ClusterError("making the base image with debootstrap needs root")
        run(["nice", "-n", "10", scripts / "build.sh", rootfs], timeout=900)
        with _storage():
            run(
                _buildah("bud", "--isolation=chroot", "--file", scripts / "Dockerfile", "--tag", BASE, folder),
                timeout=600,
            )
        rootfs.unlink()


def ensure_pause() -> None:
    """Make the image of a pod's first process unless it is there."""
    debian.install(debian.IMAGES)
    if _exists(PAUSE):
        return
    folder = cache_dir() / "pause"
    with locked(folder / ".lock", timeout=600):
        source = CLUSTERS / "pause"
        run(["gcc", "-Os", "-static", "-s", "-o", folder / "pause", source / "pause.c"], timeout=120)
        with _storage():
            run(
                _buildah("bud", "--isolation=chroot", "--file", source / "Dockerfile", "--tag", PAUSE, folder),
                timeout=300,
            )


@contextmanager
def stored(tags: Sequence[str]) -> Iterator[list[StoredImage]]:
    """Images of this machine; their layers stay where they are as long as the context lasts."""
    with _storage():
        yield [read(_root(), local_name(tag)) for tag in tags]


def release() -> None:
    """Unmount what buildah keeps mounted between its runs, unless a build goes on at this moment."""
    with contextlib.suppress(ClusterError), locked(cache_dir() / "buildah.lock", timeout=0):
        unmount_below(cache_dir() / "buildah")


def local_name(tag: str) -> str:
    """The name by which buildah's storage knows an image."""
    return tag if "/" in tag else f"localhost/{tag}"


def _exists(tag: str) -> bool:
    return run(_buildah("images", "--quiet", "--filter", f"reference={tag}"), timeout=60).strip() != ""


def _buildah(command: str, *rest: str | Path) -> list[str | Path]:
    run_root = cache_dir() / "buildah" / "run"
    settings = [f"--root={_root()}", f"--runroot={run_root}", "--storage-driver=overlay"]
    return ["buildah", *settings, command, *rest]


def _root() -> Path:
    return cache_dir() / "buildah" / "root"


def _storage() -> AbstractContextManager[None]:
    """Held while buildah works, so that `release` does not pull its mounts away."""
    return shared(cache_dir() / "buildah.lock", timeout=60)


def _mounts() -> list[tuple[Path, str, str]]:
    """What a build sees of this machine, and what does not end up in the image: source, target, mode."""
    pip_cache = cache_dir() / "pip"
    pip_cache.mkdir(parents=True, exist_ok=True)
    settings = cache_dir() / "pip.conf"
    options = {**_pip_options(), "cert": _CA_BUNDLE, "cache-dir": _PIP_CACHE}
    lines = [f"{key} = {value}" for key, value in options.items()]
    settings.write_text("\n".join(["[global]", *lines]) + "\n")
    mounts = [(pip_cache, _PIP_CACHE, "rw"), (settings, "/etc/pip.conf", "ro")]
    bundles = [os.environ.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE"), _CA_BUNDLE]
    bundle = next((Path(each) for each in bundles if each and Path(each).is_file()), None)
    if bundle is not None:
        mounts.append((bundle, _CA_BUNDLE, "ro"))
    return mounts


def _pip_options() -> dict[str, str]:
    """This user's pip settings, from its files and its environment, less those that name local paths."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    options: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in {"global", ":env:"} and name not in {"cert", "cache-dir", "find-links", "config-file"}:
            options[name] = str(ast.literal_eval(value))
    return options
