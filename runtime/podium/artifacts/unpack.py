"""Unpacks tar and zip archives that nobody vouches for: plain files only, inside the target, within limits."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from podium.artifacts.errors import ArtifactUnavailableError

CHUNK_BYTES = 1 << 20
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Bounds on what an archive may grow into."""

    total_bytes: int
    files: int = 100_000
    ratio: int = 1000
    """Unpacked bytes for each packed byte; reached only by archives made to do harm."""


def is_archive(name: str) -> bool:
    """Whether a file of that name is unpacked."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, name: str, into: Path, limits: UnpackLimits) -> None:
    """Unpacks `archive` (called `name`, which decides the format) below `into`. Blocking.

    Raises ArtifactUnavailableError for a broken archive, an entry that is not a plain file or folder, a path that
    leads out of `into`, a path given twice, and for anything beyond `limits`.
    """
    entries = _zip_entries if name.lower().endswith(".zip") else _tar_entries
    budget = _Budget(limits, archive.stat().st_size)
    try:
        for path, open_entry in entries(archive):
            target = into / _safe(path)
            if open_entry is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            budget.count_file()
            with open_entry() as source, target.open("xb") as sink:
                while chunk := source.read(CHUNK_BYTES):
                    budget.count_bytes(len(chunk))
                    sink.write(chunk)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as e:
        raise ArtifactUnavailableError(f"cannot unpack {name}: {e}") from e


Entry = tuple[str, Callable[[], IO[bytes]] | None]
"""Path in the archive and how to read it; None for a folder."""


def _tar_entries(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isdir():
                yield member.name, None
            elif member.isreg() and not member.issparse():
                yield member.name, lambda m=member: _opened(tar.extractfile(m))  # type: ignore[misc]
            else:
                raise ArtifactUnavailableError(
                    f"archive entry {member.name!r} is a link or a device; only files are taken"
                )


def _zip_entries(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as bundle:
        for info in bundle.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                yield info.filename, None
            elif kind in (0, stat.S_IFREG):
                yield info.filename, lambda i=info: bundle.open(i)  # type: ignore[misc]
            else:
                raise ArtifactUnavailableError(
                    f"archive entry {info.filename!r} is a link or a device; only files are taken"
                )


def _opened(handle: IO[bytes] | None) -> IO[bytes]:
    assert handle is not None, "a regular tar member always opens"
    return handle


def _safe(path: str) -> PurePosixPath:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise ArtifactUnavailableError(f"archive entry {path!r} leads out of the artifact")
    return pure


class _Budget:
    def __init__(self, limits: UnpackLimits, packed_bytes: int) -> None:
        self._limits = limits
        self._bytes_left = min(limits.total_bytes, packed_bytes * limits.ratio)
        self._files_left = limits.files

    def count_file(self) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise ArtifactUnavailableError(f"archive holds more than {self._limits.files} files")

    def count_bytes(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise ArtifactUnavailableError(
                f"archive unpacks to more than {self._limits.total_bytes} bytes or {self._limits.ratio} times its size"
            )
