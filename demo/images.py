"""The images of this checkout on the cluster's nodes, named by what they are made of.

An image whose inputs have not changed has the same name, so that it is neither built nor loaded again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.clusters.paths import REPOSITORY

from demo.progress import detail
from demo.target import Target

_GPU = "nvidia.com/gpu"
_SHARED = ("pyproject.toml", "README.md", ".dockerignore", "images/python-root.sh", "images/build-requirements.txt")


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be built here. `tag` follows from every file and argument that it is made of."""

    name: str
    tag: str
    arguments: Mapping[str, str]

    @property
    def dockerfile(self) -> Path:
        """Its Dockerfile."""
        return REPOSITORY / _folder(self.name) / "Dockerfile"

    @property
    def repository(self) -> str:
        """Its name without the tag."""
        return f"localhost/{self.name}"

    @property
    def reference(self) -> str:
        """Name and tag."""
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Images:
    """What the demo runs."""

    operator: Image
    runtime: Image
    store: Image


def images(target: Target) -> Images:
    """The images for this cluster: torch comes without what only a GPU loads where no node has one."""
    gpu = any(node["status"].get("allocatable", {}).get(_GPU, "0") != "0" for node in target.nodes())
    runtime = {"REQUIREMENTS": "runtime-torch", "ACCELERATOR": "cuda" if gpu else "cpu"}
    return Images(
        operator=_image("podium-operator", (*_SHARED, "requirements/operator.txt", "crds", "operator"), {}),
        runtime=_image("podium-runtime", (*_SHARED, "requirements/runtime-torch.txt", "crds", "runtime"), runtime),
        store=_image("podium-store", ("images/python-root.sh",), {}),
    )


def provide(target: Target, wanted: Images) -> None:
    """Builds and loads those that a node lacks."""
    for image in (wanted.operator, wanted.store, wanted.runtime):
        if _on_every_node(target, image.reference):
            detail(f"{image.reference} is on every node")
            continue
        detail(f"{image.reference}: building, then loading")
        target.cluster.build_image(image.dockerfile, REPOSITORY, image.reference, image.arguments)
        target.cluster.load_images([image.reference])


def _image(name: str, inputs: tuple[str, ...], arguments: Mapping[str, str]) -> Image:
    digest = hashlib.sha256(json.dumps(dict(arguments), sort_keys=True).encode())
    for path in _files(_folder(name), *inputs):
        digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes() + b"\0")
    return Image(name, f"src-{digest.hexdigest()[:12]}", arguments)


def _folder(name: str) -> str:
    return f"images/{name.removeprefix('podium-')}"


def _on_every_node(target: Target, reference: str) -> bool:
    """Whether every node lists the image. A node lists its largest 50, so that False may also mean unknown."""
    nodes = target.nodes()
    return bool(nodes) and all(
        any(reference in image.get("names", ()) for image in node["status"].get("images", ())) for node in nodes
    )


def _files(*names: str) -> Iterator[Path]:
    for name in names:
        top = REPOSITORY / name
        found = sorted(top.rglob("*")) if top.is_dir() else [top]
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)
