"""Images from buildah's storage into the nodes' container runtimes, sharing the files of their layers.

A layer in buildah's storage is a folder of files, and so is one in containerd's. Where both lie on one file system, a
node's layer is made of hard links: loading takes seconds and no space, whatever the image's size, because nothing is
packed, copied and unpacked again. (A 5.5 GB image: 150 s and 17 GB on two nodes as an archive.) The linked files are
only ever the lower layers of an overlay, which nothing writes to.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .base import ClusterError
from .nodes import ctr
from .shell import run
from .storage import Layer, StoredImage, digest_of
from .topology import Node

_TIMEOUT = 900.0
# buildah binds its storage onto itself, and the kernel links no file from one mount to another even of the same file
# system; so the link is made where that mount is not seen.
_FILL = 'while umount --lazy "$1" 2>/dev/null; do :; done; exec cp --archive "$2" "$3" "$4"'
_NAME = "io.containerd.image.name"
_KEEP_SNAPSHOT = "containerd.io/gc.ref.snapshot.overlayfs"


def load(images: Sequence[StoredImage], nodes: Sequence[Node]) -> None:
    """Make `images` usable on `nodes`, by the names a pod writes."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(lambda node: _load(images, node), nodes))


def reference(name: str) -> str:
    """The full name that Kubernetes gives to an image which a pod calls `name`."""
    host = name.partition("/")[0]
    if "/" in name and ("." in host or ":" in host or host == "localhost"):
        return name
    return f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"


def _load(images: Sequence[StoredImage], node: Node) -> None:
    present = {line.split()[0] for line in ctr(node, "snapshots", "ls").splitlines()[1:]}
    for image in images:
        below = ""
        for layer in image.layers:
            if layer.chain not in present:
                _add_layer(node, layer, below)
                present.add(layer.chain)
            below = layer.chain
        _add_image(node, image)


def _add_layer(node: Node, layer: Layer, below: str) -> None:
    draft = f"podium-draft-{layer.chain}"
    if re.search(rf"^{re.escape(draft)}\s", ctr(node, "snapshots", "ls"), re.MULTILINE):
        ctr(node, "snapshots", "rm", draft)  # A load was cut short.
    mount = ctr(node, "snapshots", "prepare", "--target=/", draft, *([below] if below else []))
    # With layers below, the new one is the mount's upper directory; without, it is what is bound.
    folder = re.search(r"upperdir=([^,\s]+)", mount) or re.search(r"mount -t bind (\S+)", mount)
    if folder is None:
        raise ClusterError(f"containerd of {node.name} does not say where the new layer lies: {mount}")
    target = Path(folder.group(1))
    how = "--link" if target.stat().st_dev == layer.tree.stat().st_dev else "--reflink=auto"
    overlay = layer.tree.parents[1]
    run(["unshare", "--mount", "sh", "-c", _FILL, "fill", overlay, how, f"{layer.tree}/.", target], timeout=_TIMEOUT)
    ctr(node, "snapshots", "commit", layer.chain, draft, timeout=_TIMEOUT)


def _add_image(node: Node, image: StoredImage) -> None:
    """Tell containerd of manifest and configuration; it finds the layers under their chain names."""
    name = reference(image.name.removeprefix("localhost/"))
    names = {image.name, name} if image.name.startswith("localhost/") else {name}
    argv = ["ctr", f"--address={node.socket}", "--namespace=k8s.io", "images", "import", "--no-unpack", "-"]
    try:
        done = subprocess.run(argv, input=_archive(image, sorted(names)), capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(f"import of {image.name} into {node.name}: gave up after 120 s") from exc
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
        raise ClusterError(f"import of {image.name} into {node.name}: exit {done.returncode}\n{said}")
    ctr(node, "content", "label", image.config_digest, f"{_KEEP_SNAPSHOT}={image.layers[-1].chain}")


def _archive(image: StoredImage, names: Sequence[str]) -> bytes:
    manifest = image.manifest
    media = "application/vnd.oci.image.manifest.v1+json"
    entry = {"mediaType": media, "digest": digest_of(manifest), "size": len(manifest)}
    entries = [{**entry, "annotations": {_NAME: name}} for name in names]
    files = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
        f"blobs/sha256/{digest_of(manifest).removeprefix('sha256:')}": manifest,
        f"blobs/sha256/{image.config_digest.removeprefix('sha256:')}": image.config,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
