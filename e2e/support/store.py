"""An artifact store inside the cluster: a plain HTTP server whose files a test writes, overwrites and removes."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kubectl import Kubectl
from .models import MODEL_PY

_NAME = "store"
_PORT = 8000
_PUT = (
    "import os, pathlib, sys; path = pathlib.Path('/store', sys.argv[1]); "
    "path.parent.mkdir(parents=True, exist_ok=True); "
    "part = path.with_name('.part'); part.write_bytes(sys.stdin.buffer.read()); os.replace(part, path)"
)


def objects(image: str) -> list[Mapping[str, Any]]:
    """The store's Deployment and Service, for `kubectl apply`."""
    labels = {"app": _NAME}
    container = {
        "name": "store",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "http.server", str(_PORT), "--directory", "/store"],
        "readinessProbe": {"tcpSocket": {"port": _PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "files", "mountPath": "/store"}],
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "files", "emptyDir": {}}],
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": _NAME},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": _NAME},
            "spec": {"selector": labels, "ports": [{"port": _PORT}]},
        },
    ]


def archive(code: str = MODEL_PY) -> bytes:
    """A tar with a model's code; equal code gives equal bytes."""
    data = code.encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("model.py")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def heavy_archive(mib: int, seed: int) -> bytes:
    """A zip with the model's code and that many MiB of weights that it does not look at. It packs to a hundredth: the
    same few thousand bytes over and over, other ones for another seed."""
    block = random.Random(seed).randbytes(4096) * 256
    header = json.dumps({"w": {"dtype": "F32", "shape": [mib, 1 << 18], "data_offsets": [0, mib << 20]}}).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle:
        bundle.writestr("model.py", MODEL_PY)
        with bundle.open("model.safetensors", "w") as weights:
            weights.write(len(header).to_bytes(8, "little") + header)
            for _ in range(mib):
                weights.write(block)
    return packed.getvalue()


def packed(folder: Path) -> bytes:
    """A tar with the files of a folder."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    return archive.getvalue()


def digest(data: bytes) -> str:
    """As `spec.source.digest` writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Store:
    """The running store of a namespace."""

    kubectl: Kubectl

    def put(self, path: str, data: bytes) -> None:
        """Write a file, replacing what was there."""
        argv = self.kubectl.argv("exec", "-i", f"deployment/{_NAME}", "--", "python3", "-c", _PUT, path)
        subprocess.run(argv, input=data, check=True, timeout=60, capture_output=True)

    def source(self, path: str, pinned: str) -> dict[str, Any]:
        """`spec.source` of a file."""
        uri = f"http://{_NAME}.{self.kubectl.namespace}.svc.cluster.local:{_PORT}/{path}"
        return {"uri": uri, "digest": pinned}


def start(kubectl: Kubectl, image: str) -> Store:
    """Start a store in the namespace of `kubectl`."""
    kubectl.apply(*objects(image))
    kubectl.rolled_out(f"deployment/{_NAME}")
    return Store(kubectl)
