"""Digests of artifacts: one file is the sha256 of its bytes, a tree is the sha256 over its sorted listing.

The listing has a line `path NUL hexdigest LF` for each file, paths relative to the root with `/`, sorted by their UTF-8
bytes. Names of folders and modes of files do not count. Pure but for reading the files.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

CHUNK_BYTES = 1 << 20


def file_hex(path: Path) -> str:
    """Hex sha256 of one file's bytes. Blocking."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def listing_digest(hex_by_path: Mapping[str, str]) -> str:
    """Digest of a tree from the hex digests of its files."""
    listing = hashlib.sha256()
    for path, hexdigest in sorted(hex_by_path.items(), key=lambda entry: entry[0].encode()):
        listing.update(f"{path}\0{hexdigest}\n".encode())
    return f"sha256:{listing.hexdigest()}"


def digest_of(path: Path) -> str:
    """Digest of a file or a folder, as `source.digest` wants it. Blocking.

    Raises FileNotFoundError where nothing is there, ValueError for a folder that holds a link or a special file.
    """
    if path.is_file():
        return f"sha256:{file_hex(path)}"
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a file nor a folder")
    return listing_digest({name: file_hex(path / name) for name in tree_files(path)})


def tree_files(root: Path) -> list[str]:
    """Relative paths of the files below `root`, sorted. Raises ValueError for a link or a special file."""
    names = []
    for entry in sorted(root.rglob("*")):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise ValueError(
                f"{entry.relative_to(root)} is a link or a special file; an artifact holds plain files only"
            )
        if entry.is_file():
            names.append(entry.relative_to(root).as_posix())
    return names
