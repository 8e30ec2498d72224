"""What every source of artifacts offers, and how its credentials are read."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_CREDENTIAL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of an artifact, not yet read."""

    path: str
    """Relative to the artifact's root, with `/`."""
    size: int | None
    """Bytes, where the store says so beforehand."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One file being read."""

    size: int | None
    """Bytes, where the store says so."""
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of an artifact. `single`: the artifact is one file, and its digest is that of the file."""

    files: tuple[RemoteFile, ...]
    single: bool


class Source(Protocol):
    """A store's side of one artifact. All calls block and run in a fetch thread.

    Raises TransientFetchError where another attempt may succeed, ArtifactUnavailableError where none can.
    """

    def list(self) -> Listing:
        """What there is to fetch."""

    def open(self, file: RemoteFile) -> AbstractContextManager[Stream]:
        """The bytes of one file of the listing, in pieces of any size. Called after `list`."""


def read_credentials(directory: str | None) -> Mapping[str, str]:
    """Keys of a mounted Secret by lower-case name; empty for None. Kubernetes' own hidden entries are left out."""
    if directory is None:
        return {}
    return {
        entry.name.lower(): entry.read_bytes()[:MAX_CREDENTIAL_BYTES].decode().strip()
        for entry in Path(directory).iterdir()
        if entry.is_file() and not entry.name.startswith(".")
    }
