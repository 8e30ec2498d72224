"""Fetching artifacts from real servers on loopback: S3 (moto), HTTP, files; digests, cache, archives, failures."""

import asyncio
import hashlib
import http.server
import io
import os
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from podium.artifacts import (
    ArtifactDigestMismatchError,
    ArtifactStore,
    ArtifactUnavailableError,
    Fetched,
    Limits,
    digest_of,
)
from podium_crds.assignment import Artifact

FILES = {"config.json": b"{}", "weights/a.bin": b"a" * 3_000_000, "weights/b.bin": b""}
QUICK = Limits(timeout_s=5, attempts=2, total_bytes=20 << 20, backoff_base_s=0.01)


def tree(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ArtifactStore]:
    made = ArtifactStore(tmp_path / "cache", QUICK)
    made.open()
    yield made
    made.close()


async def fetch(store: ArtifactStore, **artifact: Any) -> Fetched:
    return await store.fetch(Artifact(**artifact), lambda done, total: None)


class Site(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `/flaky/…` answers 503 once for each path, `/cut/…` ends early."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path.startswith("/flaky/"):
            if self.seen.count(self.path) == 1:
                self.send_error(503)
                return
            self.path = self.path.removeprefix("/flaky")
        if self.path.startswith("/cut/"):
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Address, folder and requests of an HTTP server."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = type("Handler", (Site,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, handler.seen
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_url: str, tmp_path: Path) -> tuple[Any, str]:
    """A client of a bucket `models`, and a folder of credentials as a Secret mounts them."""
    secret = tmp_path / "secret"
    secret.mkdir()
    keys = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret\n",
        "AWS_ENDPOINT_URL": s3_url,
        "AWS_REGION": "us-east-1",
    }
    for name, value in keys.items():
        (secret / name).write_text(value)
    client = boto3.client(
        "s3", endpoint_url=s3_url, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
    )
    client.create_bucket(Bucket="models")
    return client, str(secret)


async def test_an_s3_prefix_is_fetched_as_a_tree_with_the_digest_of_the_folder(
    store: ArtifactStore, bucket: tuple[Any, str], tmp_path: Path
) -> None:
    client, secret = bucket
    for name, data in FILES.items():
        client.put_object(Bucket="models", Key=f"minilm/1/{name}", Body=data)
    progress: list[tuple[int, int | None]] = []
    for uri in ("s3://models/minilm/1/", "s3://models/minilm/1"):
        artifact = Artifact(uri=uri, credentials_path=secret)
        fetched = await store.fetch(artifact, lambda done, total: progress.append((done, total)))
        assert contents(fetched.path) == FILES
        assert fetched.digest == digest_of(tree(tmp_path / "tree"))
    total = sum(map(len, FILES.values()))
    assert (progress[0], progress[-1]) == ((0, total), (total, total))


async def test_an_s3_object_is_one_file(store: ArtifactStore, bucket: tuple[Any, str]) -> None:
    client, secret = bucket
    client.put_object(Bucket="models", Key="one/weights.bin", Body=b"w" * 10)
    fetched = await fetch(store, uri="s3://models/one/weights.bin", credentials_path=secret)
    assert fetched.digest == "sha256:" + hashlib.sha256(b"w" * 10).hexdigest()
    assert contents(fetched.path) == {"weights.bin": b"w" * 10}


async def test_an_overwritten_object_is_a_digest_mismatch(store: ArtifactStore, bucket: tuple[Any, str]) -> None:
    client, secret = bucket
    client.put_object(Bucket="models", Key="two/a", Body=b"first")
    pinned = (await fetch(store, uri="s3://models/two/", credentials_path=secret)).digest
    client.put_object(Bucket="models", Key="two/a", Body=b"other")
    elsewhere = ArtifactStore(store._root.parent / "other-pod", QUICK)
    elsewhere.open()
    with pytest.raises(ArtifactDigestMismatchError, match=f"expected {pinned}"):
        await fetch(elsewhere, uri="s3://models/two/", credentials_path=secret, digest=pinned)
    assert not list((store._root.parent / "other-pod").iterdir())
    elsewhere.close()


async def test_what_s3_does_not_have_is_unavailable(store: ArtifactStore, bucket: tuple[Any, str]) -> None:
    _, secret = bucket
    with pytest.raises(ArtifactUnavailableError, match=r"does not exist.*after 2 attempts"):
        await fetch(store, uri="s3://models/nothing/", credentials_path=secret)
    with pytest.raises(ArtifactUnavailableError):
        await fetch(store, uri="s3://no-such-bucket/x", credentials_path=secret)


async def test_a_pinned_digest_in_the_cache_is_not_fetched_again(
    store: ArtifactStore, site: tuple[str, Path, list[str]]
) -> None:
    url, folder, seen = site
    (folder / "model.bin").write_bytes(b"weights")
    first = await fetch(store, uri=f"{url}/model.bin")
    again = await fetch(store, uri=f"{url}/model.bin", digest=first.digest)
    assert again == first
    assert len(seen) == 1


async def test_a_failing_server_is_asked_again_and_a_missing_file_is_unavailable(
    store: ArtifactStore, site: tuple[str, Path, list[str]]
) -> None:
    url, folder, _ = site
    (folder / "model.bin").write_bytes(b"weights")
    assert contents((await fetch(store, uri=f"{url}/flaky/model.bin")).path) == {"model.bin": b"weights"}
    with pytest.raises(ArtifactUnavailableError, match="answered 404"):
        await fetch(store, uri=f"{url}/none?X-Signature=secret")
    with pytest.raises(ArtifactUnavailableError) as cut:
        await fetch(store, uri=f"{url}/cut/short?X-Signature=secret")
    assert "secret" not in str(cut.value)
    with pytest.raises(ArtifactUnavailableError):
        await fetch(store, uri="http://127.0.0.1:9/x")


async def test_one_fetch_serves_all_who_ask_at_once(store: ArtifactStore, site: tuple[str, Path, list[str]]) -> None:
    url, folder, _ = site
    (folder / "model.bin").write_bytes(b"weights" * 1000)
    digest = digest_of(folder / "model.bin")
    results = await asyncio.gather(*(fetch(store, uri=f"{url}/model.bin", digest=digest) for _ in range(8)))
    assert len(set(results)) == 1
    assert site[2].count("/model.bin") == 1


def tar_of(path: Path, add: Callable[[tarfile.TarFile], None], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        add(archive)
    return path


def tar_file(archive: tarfile.TarFile, name: str, data: bytes = b"x") -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def tar_entry(archive: tarfile.TarFile, name: str, kind: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    archive.addfile(info)


async def test_archives_are_unpacked_and_hashed_as_they_came(store: ArtifactStore, tmp_path: Path) -> None:
    source = tree(tmp_path / "tree")
    packed = [tar_of(tmp_path / "m.tar.gz", lambda t: t.add(source, ".")), tmp_path / "m.zip"]
    with zipfile.ZipFile(packed[1], "w") as bundle:
        for name, data in FILES.items():
            bundle.writestr(name, data)
    for archive in packed:
        fetched = await fetch(store, uri=f"file://{archive}")
        assert contents(fetched.path) == FILES
        assert fetched.digest == digest_of(archive)


@pytest.mark.parametrize(
    "add",
    [
        lambda t: tar_file(t, "../out"),
        lambda t: tar_file(t, "/etc/out"),
        lambda t: tar_file(t, "a/../../out"),
        lambda t: tar_entry(t, "link", tarfile.SYMTYPE),
        lambda t: tar_entry(t, "hard", tarfile.LNKTYPE),
        lambda t: tar_entry(t, "dev", tarfile.CHRTYPE),
        lambda t: tar_entry(t, "pipe", tarfile.FIFOTYPE),
        lambda t: [tar_file(t, "twice"), tar_file(t, "twice")],
        lambda t: [tar_file(t, "a"), tar_file(t, "a/b")],
        lambda t: tar_file(t, "bomb", bytes(40 << 20)),
    ],
    ids=["parent", "absolute", "climbs", "symlink", "hardlink", "device", "fifo", "twice", "through-a-file", "bomb"],
)
async def test_archives_that_mean_harm_leave_nothing(
    store: ArtifactStore, tmp_path: Path, add: Callable[[tarfile.TarFile], None]
) -> None:
    archive = tar_of(tmp_path / "evil.tar.gz", add)
    with pytest.raises(ArtifactUnavailableError):
        await fetch(store, uri=f"file://{archive}")
    assert not list((tmp_path / "cache").iterdir())
    assert not (tmp_path / "out").exists()


async def test_zip_links_and_broken_archives_are_refused(store: ArtifactStore, tmp_path: Path) -> None:
    linked = tmp_path / "link.zip"
    with zipfile.ZipFile(linked, "w") as bundle:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(info, "/etc/passwd")
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"\x1f\x8b but no archive")
    for archive in (linked, broken):
        with pytest.raises(ArtifactUnavailableError):
            await fetch(store, uri=f"file://{archive}")


async def test_folders_with_links_and_unknown_schemes_are_refused(store: ArtifactStore, tmp_path: Path) -> None:
    source = tree(tmp_path / "tree")
    (source / "link").symlink_to("/etc/passwd")
    for uri in (f"file://{source}", "file:///nowhere", "ftp://host/x", "no-scheme"):
        with pytest.raises(ArtifactUnavailableError):
            await fetch(store, uri=uri)


async def test_inline_files_are_a_tree(store: ArtifactStore) -> None:
    fetched = await fetch(store, files={"model.py": "x = 1\n"})
    assert contents(fetched.path) == {"model.py": b"x = 1\n"}
    with pytest.raises(ArtifactUnavailableError, match="leads out"):
        await fetch(store, files={"../model.py": ""})


async def test_an_entry_without_its_marker_is_fetched_again(store: ArtifactStore, tmp_path: Path) -> None:
    source = tree(tmp_path / "tree")
    fetched = await fetch(store, uri=f"file://{source}")
    (fetched.path.parent / "complete").unlink()
    (fetched.path / "config.json").write_bytes(b"half")
    again = await fetch(store, uri=f"file://{source}", digest=fetched.digest)
    assert contents(again.path) == FILES


async def test_a_cancelled_fetch_stops_and_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    source = tree(tmp_path / "tree")
    started = threading.Event()
    go_on = threading.Event()

    def progress(done: int, total: int | None) -> None:
        if done:
            started.set()
            go_on.wait(10)

    task = asyncio.create_task(store.fetch(Artifact(uri=f"file://{source}"), progress))
    assert await asyncio.to_thread(started.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list((tmp_path / "cache").iterdir())


async def test_an_artifact_above_the_limit_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "cache", Limits(total_bytes=1000, attempts=1))
    store.open()
    with pytest.raises(ArtifactUnavailableError, match="larger than 1000 bytes"):
        await fetch(store, uri=f"file://{tree(tmp_path / 'tree')}")
    store.close()


async def test_trimming_removes_the_least_recently_used_that_nobody_uses(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "cache", Limits(cache_bytes=250))
    store.open()
    fetched = [await fetch(store, files={"f": str(number) * 100}) for number in range(4)]
    for age, entry in enumerate(reversed(fetched)):
        marker = entry.path.parent / "complete"
        last_use = marker.stat().st_mtime - 1000 * (age + 1)
        os.utime(marker, (last_use, last_use))
    await store.trim({fetched[0].digest})
    assert [entry.path.exists() for entry in fetched] == [True, False, True, True]
    await store.trim(set())
    assert [entry.path.exists() for entry in fetched] == [False, False, True, True]
    store.close()


async def test_without_a_limit_nothing_is_removed(store: ArtifactStore) -> None:
    fetched = await fetch(store, files={"f": "x"})
    os.utime(fetched.path.parent / "complete", (0, 0))
    await store.trim(set())
    assert fetched.path.exists()
