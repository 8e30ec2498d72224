"""Images from the shared OCI layout into the nodes' container runtimes, moving only the layers a node lacks.

Every node gets a tar stream that names the image and holds the missing blobs; the rest is in its content store already.
Two nodes load at the same time.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .base import ClusterError
from .nodes import ctr
from .topology import Node

_TIMEOUT = 900.0
_NAME = "io.containerd.image.name"
_REF = "org.opencontainers.image.ref.name"


def load(layout: Path, tags: Sequence[str], nodes: Sequence[Node]) -> None:
    """Make `tags` usable on `nodes`, by the names a pod writes."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(lambda node: _load(layout, tags, node), nodes))


def reference(tag: str) -> str:
    """The full name that Kubernetes gives to an image which a pod calls `tag`."""
    host = tag.partition("/")[0]
    if "/" in tag and ("." in host or ":" in host or host == "localhost"):
        return tag
    return f"docker.io/{tag}" if "/" in tag else f"docker.io/library/{tag}"


def _load(layout: Path, tags: Sequence[str], node: Node) -> None:
    wanted = [entry for entry in _read(layout / "index.json")["manifests"] if entry["annotations"].get(_REF) in tags]
    there = _images(node)
    new = [entry for entry in wanted if there.get(reference(entry["annotations"][_REF])) != entry["digest"]]
    if not new:
        return
    present = set(ctr(node, "content", "ls", "--quiet").split())
    _import(layout, new, present, node)


def _images(node: Node) -> dict[str, str]:
    """Name → digest of every image the node has."""
    rows = [line.split() for line in ctr(node, "images", "ls").splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def _import(layout: Path, entries: Sequence[dict[str, Any]], present: set[str], node: Node) -> None:
    argv = ["ctr", f"--address={node.socket}", "--namespace=k8s.io", "images", "import", "--all-platforms", "-"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        # The kernel ends the import when the deadline has passed, wherever it or this process is blocked.
        timer = threading.Timer(_TIMEOUT, process.kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with process.stdin as pipe, tarfile.open(fileobj=pipe, mode="w|") as archive:
                    _write(archive, layout, entries, present)
            except BrokenPipeError:
                pass  # The importer has stopped reading; what it says tells why.
            said = process.stdout.read().decode(errors="replace")
            code = process.wait()
        finally:
            timer.cancel()
    if code != 0:
        names = ", ".join(entry["annotations"][_REF] for entry in entries)
        raise ClusterError(f"import of {names} into {node.name}: exit {code}\n{said[-2000:]}")


def _write(archive: tarfile.TarFile, layout: Path, entries: Sequence[dict[str, Any]], present: set[str]) -> None:
    named = [{**entry, "annotations": {_NAME: reference(entry["annotations"][_REF])}} for entry in entries]
    _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}))
    _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": named}))
    sent = set(present)
    for entry in entries:
        manifest = _read(_blob(layout, entry["digest"]))
        for digest in (entry["digest"], *(part["digest"] for part in [manifest["config"], *manifest["layers"]])):
            # The manifest itself always goes along: it is what the importer starts from.
            if digest not in sent or digest == entry["digest"]:
                archive.add(_blob(layout, digest), arcname=f"blobs/sha256/{digest.removeprefix('sha256:')}")
                sent.add(digest)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _add(archive: tarfile.TarFile, name: str, content: str) -> None:
    data = content.encode()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
