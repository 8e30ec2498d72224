"""Artifacts on a mounted file system, and small ones carried in the assignment itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from podium.artifacts.digest import CHUNK_BYTES, tree_files
from podium.artifacts.errors import ArtifactUnavailableError, TransientFetchError
from podium.artifacts.sources.base import Listing, RemoteFile, Stream


class FileSource:
    """`file:///absolute/path` of a file or a folder."""

    def __init__(self, uri: str) -> None:
        self._path = Path(unquote(urlsplit(uri).path))
        if not self._path.is_absolute():
            raise ArtifactUnavailableError(f"{uri!r} is not absolute; expected file:///path")

    def list(self) -> Listing:
        """The file, or every file below the folder."""
        if self._path.is_file():
            return Listing((RemoteFile(self._path.name, self._path.stat().st_size),), single=True)
        if not self._path.is_dir():
            raise TransientFetchError(f"{self._path} does not exist")
        try:
            names = tree_files(self._path)
        except ValueError as error:
            raise ArtifactUnavailableError(str(error)) from error
        return Listing(tuple(RemoteFile(name, (self._path / name).stat().st_size) for name in names), single=False)

    @contextmanager
    def open(self, file: RemoteFile) -> Iterator[Stream]:
        """The file in pieces."""
        path = self._path if self._path.is_file() else self._path / file.path
        try:
            with path.open("rb") as handle:
                yield Stream(file.size, iter(lambda: handle.read(CHUNK_BYTES), b""))
        except OSError as error:
            raise TransientFetchError(f"cannot read {path}: {error}") from error


class InlineSource:
    """Files carried in the assignment."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = {path: text.encode() for path, text in files.items()}

    def list(self) -> Listing:
        """Every file."""
        return Listing(tuple(RemoteFile(path, len(data)) for path, data in sorted(self._files.items())), single=False)

    @contextmanager
    def open(self, file: RemoteFile) -> Iterator[Stream]:
        """The file in one piece."""
        yield Stream(file.size, iter((self._files[file.path],)))
