"""Reads images out of buildah's storage: each layer as a folder on disk, ready to be shared instead of packed.

Relies on the layout of containers/storage with the overlay driver: `overlay-images/images.json`,
`overlay-layers/layers.json` and `overlay/ID/diff`. Anything unexpected raises ClusterError.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import ClusterError


@dataclass(frozen=True)
class Layer:
    """One layer. `chain` names it together with all below it; `tree` holds its files, in overlayfs form."""

    digest: str
    chain: str
    size: int
    tree: Path


@dataclass(frozen=True)
class StoredImage:
    """An image: its configuration as stored, and its layers from the lowest up."""

    name: str
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def config_digest(self) -> str:
        """What containers/storage and Kubernetes call the image's id."""
        return digest_of(self.config)

    @property
    def manifest(self) -> bytes:
        """An OCI manifest of the image. It names layers by the digests of their plain archives."""
        layers = [_descriptor("layer.v1.tar", layer.digest, layer.size) for layer in self.layers]
        config = _descriptor("config.v1+json", self.config_digest, len(self.config))
        media = "application/vnd.oci.image.manifest.v1+json"
        return json.dumps({"schemaVersion": 2, "mediaType": media, "config": config, "layers": layers}).encode()


def digest_of(data: bytes) -> str:
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(root: Path, name: str) -> StoredImage:
    """The image called `name` in the storage at `root`."""
    images = json.loads((root / "overlay-images" / "images.json").read_text())
    record = next((image for image in images if name in image.get("names", ())), None)
    if record is None:
        raise ClusterError(f"no image {name} has been built on this machine; see `python -m e2e.clusters build-image`")
    config = _config(root, str(record["id"]))
    layers = _layers(root, record)
    expected = json.loads(config)["rootfs"]["diff_ids"]
    found = [layer.digest for layer in layers]
    if found != expected:
        raise ClusterError(f"{name}: storage has layers {found}, its configuration {expected}")
    return StoredImage(name, config, layers)


def _config(root: Path, image: str) -> bytes:
    key = f"sha256:{image}"
    file = root / "overlay-images" / image / f"={base64.b64encode(key.encode()).decode()}"
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise ClusterError(f"the storage at {root} has no configuration of image {image}: {exc}") from exc
    if digest_of(data) != key:
        raise ClusterError(f"the configuration of image {image} in {root} is damaged")
    return data


def _layers(root: Path, record: dict[str, Any]) -> tuple[Layer, ...]:
    listed = json.loads((root / "overlay-layers" / "layers.json").read_text())
    known = {layer["id"]: layer for layer in listed}
    upward: list[dict[str, Any]] = []
    current = record.get("layer")
    while current:
        upward.insert(0, known[current])
        current = known[current].get("parent")
    layers: list[Layer] = []
    for entry in upward:
        digest = entry["diff-digest"]
        chain = digest_of(f"{layers[-1].chain} {digest}".encode()) if layers else digest
        layers.append(Layer(digest, chain, entry.get("diff-size", 0), root / "overlay" / entry["id"] / "diff"))
    return tuple(layers)


def _descriptor(kind: str, digest: str, size: int) -> dict[str, str | int]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": size}
