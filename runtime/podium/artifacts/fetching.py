"""One fetch of one artifact, in a thread of its own: list, download, hash, unpack, keep; with retries."""

import hashlib
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from podium.artifacts.digest import listing_digest
from podium.artifacts.entries import Fetched, cached, keep, temporary_folder
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

BACKOFF_BASE_S = 0.25
BACKOFF_CAP_S = 10.0

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
    cache_bytes: int | None = None
    """What `trim` leaves of unused artifacts; None: all."""


class Fetch:
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
        """The artifact. Raises ArtifactError, or FetchCancelledError once `cancelled` is set."""
        if self._artifact.digest and (found := cached(self._root, self._artifact.digest)):
            return found
        source = source_of(self._artifact, self._limits.timeout_s)
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return self._attempt(source)
            except TransientFetchError as error:
                if attempt == self._limits.attempts:
                    raise ArtifactUnavailableError(f"{error} (after {attempt} attempts)") from error
                log.warning("artifact_fetch_retried", attempt=attempt, problem=str(error))
                self._back_off(attempt)
        raise AssertionError("the last attempt returns or raises")

    def _back_off(self, attempt: int) -> None:
        longest = min(BACKOFF_CAP_S, self._limits.backoff_base_s * 2**attempt)
        if self._cancelled.wait(random.uniform(longest / 2, longest)):  # noqa: S311 - jitter
            raise FetchCancelledError

    def _attempt(self, source: Source) -> Fetched:
        with temporary_folder(self._root) as folder:
            listing = source.list()
            digest = self._download(source, listing, folder / "content")
            if self._artifact.digest not in (None, digest):
                raise ArtifactDigestMismatchError(
                    f"{self._artifact.uri or 'the inline files'} hashed to {digest}, expected {self._artifact.digest}"
                )
            return keep(self._root, folder, digest)

    def _download(self, source: Source, listing: Listing, content: Path) -> str:
        content.mkdir()
        sizes = [file.size for file in listing.files]
        meter = Meter(self._progress, sum(filter(None, sizes)) if None not in sizes else None, self._limits)
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

    def _download_one(self, source: Source, file: RemoteFile, content: Path, meter: "Meter") -> str:
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


class Meter:
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


def _inside(path: str) -> PurePosixPath:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise ArtifactUnavailableError(f"artifact file {path!r} leads out of the artifact")
    return pure
