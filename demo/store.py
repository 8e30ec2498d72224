"""The S3 store in the cluster, and the example's artifacts in it."""

import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from demo.errors import DemoError
from demo.progress import detail
from demo.target import Target
from podium.artifacts.digest import digest_of, tree_files

BUCKET = "models"
PREFIX = "minilm"
SECRET = "store-keys"  # noqa: S105 - the name of a Secret
URI = f"s3://{BUCKET}/{PREFIX}"
_MARKER = "digest"
_FORWARD_TIMEOUT_S = 30.0


def start(target: Target, image: str) -> None:
    """Returns once the store answers."""
    target.apply_template("store.yaml", IMAGE=image)
    target.rolled_out("deployment/podium-demo-store")


def upload(target: Target, artifacts: Path) -> None:
    """Puts every folder of `artifacts` into the store, those left out that it holds already."""
    with _forwarded(target) as port:
        _make_bucket(port)
        store = _open(port)
        for folder in sorted(path for path in artifacts.iterdir() if path.is_dir()):
            wanted = digest_of(folder)
            if _held(store, folder.name) == wanted:
                detail(f"{URI}/{folder.name} is there: {wanted[:19]}…")
                continue
            size = sum((folder / name).stat().st_size for name in tree_files(folder))
            detail(f"{URI}/{folder.name}: {size / 1e6:.1f} MB, {wanted[:19]}…")
            _put(store, folder)
            # Last, and outside the folder: what is marked is complete, and the mark is no part of the artifact.
            obstore.put(store, f"{_MARKER}/{folder.name}", wanted.encode())


def _make_bucket(port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.CONFLICT:  # it is there
            raise DemoError(f"cannot make the bucket {BUCKET} in the store: {error}") from error
    except OSError as error:
        raise DemoError(f"the store does not answer through kubectl port-forward: {error}") from error


def _put(store: S3Store, folder: Path) -> None:
    try:
        for name in tree_files(folder):
            obstore.put(store, f"{PREFIX}/{folder.name}/{name}", folder / name)
    except BaseError as error:
        raise DemoError(f"cannot put {folder.name} into the store: {error}") from error


def _held(store: S3Store, name: str) -> str | None:
    try:
        return bytes(obstore.get(store, f"{_MARKER}/{name}").bytes()).decode()
    except (BaseError, FileNotFoundError):
        return None


def _open(port: int) -> S3Store:
    options: dict[str, Any] = {
        "endpoint": f"http://127.0.0.1:{port}",
        "access_key_id": "demo",
        "secret_access_key": "demo",  # as in manifests/store.yaml
        "region": "us-east-1",
    }
    return S3Store(
        BUCKET,
        config=options,
        client_options={"allow_http": True, "timeout": timedelta(minutes=5)},
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
    )


@contextmanager
def _forwarded(target: Target) -> Iterator[int]:
    """A loopback port that leads to the store."""
    argv = target.argv("port-forward", "--address=127.0.0.1", "deployment/podium-demo-store", ":9000")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield _port(process)
        finally:
            process.terminate()


def _port(process: "subprocess.Popen[bytes]") -> int:
    timer = threading.Timer(_FORWARD_TIMEOUT_S, process.terminate)
    timer.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode(errors="replace")
    finally:
        timer.cancel()
    found = re.search(r"127\.0\.0\.1:(\d+)", line)
    if found is None:
        raise DemoError(f"kubectl port-forward to the store did not start: {line.strip() or 'it said nothing'}")
    return int(found.group(1))
