"""The cache's layout on disk: entries by digest, their markers, temporary folders, and what makes them safe to share.

Layout below the root: `tmp-<pid>-*` (fetches under way; those of dead processes are removed at start), `<hex>/content`
(the files) and `<hex>/complete` (written last: an entry without it is thrown away). Nothing changes once complete, so
that workers may map the files. Everything here blocks.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from podium.telemetry.logging import get_logger

log = get_logger(__name__)

LOCK_FILE = ".lock"
MARKER = "complete"
"""Holds the size of the content in bytes; its time is that of the last use."""
TRIM_GRACE_S = 600.0
"""What was asked for so recently may be about to be loaded, although no revision says so yet."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An artifact on disk. The folder is read-only by agreement and stays as long as the cache does."""

    path: Path
    digest: str


def entry_of(root: Path, digest: str) -> Path:
    """Where an artifact of that digest is kept."""
    return root / digest.removeprefix("sha256:")


def cached(root: Path, digest: str) -> Fetched | None:
    """The artifact, if it is there and whole; it counts as used now."""
    entry = entry_of(root, digest)
    if not (entry / MARKER).exists():
        return None
    os.utime(entry / MARKER)
    return Fetched(entry / "content", digest)


def keep(root: Path, folder: Path, digest: str) -> Fetched:
    """Moves a finished fetch (a folder with `content` in it) into its place. Of two equal ones the first stays."""
    entry = entry_of(root, digest)
    with _exclusive(root):
        if found := cached(root, digest):
            return found
        shutil.rmtree(entry, ignore_errors=True)
        folder.rename(entry)
        _fsync(root)
        (entry / MARKER).write_text(str(_size(entry / "content")))
        _fsync(entry)
    return Fetched(entry / "content", digest)


def remove_abandoned(root: Path) -> None:
    """Removes what dead processes left half-done."""
    for leftover in root.glob("tmp-*-*"):
        if _is_abandoned(leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def temporary_folder(root: Path) -> Iterator[Path]:
    """A folder on the cache's file system, removed at the end unless it has been moved away."""
    folder = Path(tempfile.mkdtemp(prefix=f"tmp-{os.getpid()}-", dir=root))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def trim(root: Path, limit: int, in_use: frozenset[str]) -> None:
    """Removes entries that are not `in_use`, least recently used first, until the unused take `limit` bytes or less."""
    with _exclusive(root):
        unused = [
            (marker.stat().st_mtime, int(marker.read_text() or 0), marker.parent)
            for marker in root.glob(f"*/{MARKER}")
            if f"sha256:{marker.parent.name}" not in in_use
        ]
        left = sum(size for _, size, _ in unused)
        for last_use, size, entry in sorted(unused):
            if left <= limit or time.time() - last_use < TRIM_GRACE_S:
                return
            (entry / MARKER).unlink()  # first: without it, what is left after a crash counts as nothing
            shutil.rmtree(entry, ignore_errors=True)
            left -= size
            log.info("artifact_removed", digest=f"sha256:{entry.name}", bytes=size)


def _size(content: Path) -> int:
    return sum(path.stat().st_size for path in content.rglob("*") if path.is_file())


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


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
