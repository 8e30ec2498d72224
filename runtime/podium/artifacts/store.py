"""The content-addressed cache of one pod: fetches an artifact once, checks its digest, and hands out a folder.

Layout below the root: `tmp-<pid>-*` (fetches under way; those of dead processes are removed at start), `<hex>/content`
(the files) and `<hex>/complete` (written last: an entry without it is thrown away). Nothing changes once complete, so
that workers may map the files. What blocks runs in a small pool of niced threads: a fetch does not disturb serving.
"""

import asyncio
import fcntl
import hashlib
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from podium.artifacts.digest import listing_digest
from podium.artifacts.errors import (
    ArtifactDigestMismatchError,
    ArtifactUnavailableError,
    FetchCancelledError,
    TransientFetchError,
)
from podium.artifacts.sources import source_of
from podium.artifacts.sources.base import Listing, RemoteFile, Source
from podium.artifacts.unpack import UnpackLimits, is_archive, unpack
from podium.telemetry.logging import get_logger
from podium_crds.assignment import Artifact

log = get_logger(__name__)

FETCH_THREADS = 4
FETCH_NICENESS = 10
BACKOFF_BASE_S = 0.25
BACKOFF_CAP_S = 10.0
LOCK_FILE = ".lock"

ProgressCallback = Callable[[int, int | None], None]
"""Called from a fetch thread with bytes done and, where known, bytes in all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on fetching."""

    timeout_s: float = 60.0
    """Longest silence of a store."""
    attempts: int = 4
    total_bytes: int = 256 << 30
    """Largest artifact, packed and unpacked."""
    backoff_base_s: float = BACKOFF_BASE_S


@dataclass(frozen=True, slots=True)
class Fetched:
    """An artifact on disk. The folder is read-only by agreement and stays as long as the cache does."""

    path: Path
    digest: str


class ArtifactStore:
    """Fetches and keeps artifacts below `root`. Call `open` once before the first fetch and `close` at the end."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._pool = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch", initializer=_be_nice)
        self._in_progress: dict[str, asyncio.Lock] = {}

    def open(self) -> None:
        """Creates the root and removes what an earlier process left half-done. Blocking."""
        self._root.mkdir(parents=True, exist_ok=True)
        for leftover in self._root.glob("tmp-*-*"):
            if _is_abandoned(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Gives up the threads; fetches under way must have been cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, artifact: Artifact, progress: ProgressCallback) -> Fetched:
        """The artifact's folder and digest. A pinned digest that is in the cache is not fetched again.

        Raises ArtifactDigestMismatchError, or ArtifactUnavailableError once the attempts are used up.
        """
        key = artifact.digest or artifact.uri or "inline"
        async with self._in_progress.setdefault(key, asyncio.Lock()):
            cancelled = threading.Event()
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, _Fetch(self._root, self._limits, artifact, progress, cancelled).run
            )
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                cancelled.set()
                with suppress(FetchCancelledError, ArtifactUnavailableError, ArtifactDigestMismatchError):
                    await work
                raise


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), FETCH_NICENESS)


class _Fetch:
    """One fetch of one artifact, in a thread of its own."""

    def __init__(
        self,
        root: Path,
        limits: Limits,
        artifact: Artifact,
        progress: ProgressCallback,
        cancelled: threading.Event,
    ) -> None:
        self._root = root
        self._limits = limits
        self._artifact = artifact
        self._progress = progress
        self._cancelled = cancelled

    def run(self) -> Fetched:
        if self._artifact.digest and (cached := self._cached(self._artifact.digest)):
            return cached
        source = source_of(self._artifact, self._limits.timeout_s)
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return self._attempt(source)
            except TransientFetchError as error:
                if attempt == self._limits.attempts:
                    raise ArtifactUnavailableError(f"{error} (after {attempt} attempts)") from error
                log.warning("artifact_fetch_retried", attempt=attempt, error=str(error))
                self._back_off(attempt)
        raise AssertionError("the last attempt returns or raises")

    def _back_off(self, attempt: int) -> None:
        longest = min(BACKOFF_CAP_S, self._limits.backoff_base_s * 2**attempt)
        if self._cancelled.wait(random.uniform(longest / 2, longest)):  # noqa: S311 - jitter
            raise FetchCancelledError

    def _attempt(self, source: Source) -> Fetched:
        with _temporary_folder(self._root) as folder:
            listing = source.list()
            digest = self._download(source, listing, folder / "content")
            if self._artifact.digest not in (None, digest):
                raise ArtifactDigestMismatchError(
                    f"{self._artifact.uri or 'the inline files'} hashed to {digest}, expected {self._artifact.digest}"
                )
            return self._keep(folder, digest)

    def _download(self, source: Source, listing: Listing, content: Path) -> str:
        content.mkdir()
        sizes = [file.size for file in listing.files]
        meter = _Meter(self._progress, sum(filter(None, sizes)) if None not in sizes else None, self._limits)
        hexes = {file.path: self._download_one(source, file, content, meter) for file in listing.files}
        if not listing.single:
            return listing_digest(hexes)
        (path, only) = next(iter(hexes.items()))
        if is_archive(path):
            packed = content / path
            archive = packed.rename(content.parent / "archive")
            unpack(archive, path, content, UnpackLimits(self._limits.total_bytes))
            archive.unlink()
        return f"sha256:{only}"

    def _download_one(self, source: Source, file: RemoteFile, content: Path, meter: "_Meter") -> str:
        target = content / _inside(file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, received = hashlib.sha256(), 0
        with source.open(file) as stream, target.open("xb") as sink:
            meter.expect(stream.size)
            for piece in stream.pieces:
                if self._cancelled.is_set():
                    raise FetchCancelledError
                digest.update(piece)
                sink.write(piece)
                received += len(piece)
                meter.add(len(piece))
            sink.flush()
            os.fsync(sink.fileno())
        if stream.size is not None and received != stream.size:
            raise TransientFetchError(f"{file.path} ended after {received} bytes, expected {stream.size}")
        return digest.hexdigest()

    def _keep(self, folder: Path, digest: str) -> Fetched:
        """Moves a finished fetch into its place. Two fetches of the same bytes: the first one stays."""
        entry = self._entry(digest)
        with _exclusive(self._root):
            if cached := self._cached(digest):
                return cached
            shutil.rmtree(entry, ignore_errors=True)
            folder.rename(entry)
            _fsync(self._root)
            (entry / "complete").touch()
            _fsync(entry)
        return Fetched(entry / "content", digest)

    def _cached(self, digest: str) -> Fetched | None:
        entry = self._entry(digest)
        return Fetched(entry / "content", digest) if (entry / "complete").exists() else None

    def _entry(self, digest: str) -> Path:
        return self._root / digest.removeprefix("sha256:")


class _Meter:
    """Counts bytes against the limit and reports progress."""

    def __init__(self, progress: ProgressCallback, total: int | None, limits: Limits) -> None:
        self._progress = progress
        self._done = 0
        self._total = total
        self._limit = limits.total_bytes
        progress(0, total)

    def expect(self, size: int | None) -> None:
        if self._total is None and self._done == 0:
            self._total = size

    def add(self, count: int) -> None:
        self._done += count
        if self._done > self._limit:
            raise ArtifactUnavailableError(f"artifact is larger than {self._limit} bytes")
        self._progress(self._done, self._total)


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    """A folder on the cache's file system, removed at the end unless it has been moved away."""
    folder = Path(tempfile.mkdtemp(prefix=f"tmp-{os.getpid()}-", dir=root))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """Held, across processes, while an entry is put in place: before it has its marker nobody may judge it."""
    with (root / LOCK_FILE).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _is_abandoned(name: str) -> bool:
    """Whether a temporary folder's process is gone. One of our own pid is of an earlier container."""
    pid = name.split("-")[1]
    return not pid.isdigit() or int(pid) == os.getpid() or not Path(f"/proc/{pid}").exists()


def _inside(path: str) -> PurePosixPath:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise ArtifactUnavailableError(f"artifact file {path!r} leads out of the artifact")
    return pure


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
