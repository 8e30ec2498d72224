"""API keys of the data port: names and keys from a mounted Secret or a file, read again when they change."""

import hmac
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

from podium.http.transport.asgi import Fields
from podium.http.transport.errors import UnauthorizedError
from podium.telemetry.logging import get_logger

log = get_logger(__name__)

MIN_KEY_CHARS = 16
MAX_KEY_CHARS = 512
MAX_KEYS = 256
MAX_FILE_BYTES = MAX_KEYS * (MAX_KEY_CHARS + 256)
LOOK_EVERY_S = 1.0
BEARER = b"bearer "
KEY_FIELDS = frozenset((b"authorization", b"x-api-key"))
ADVICE = "send Authorization: Bearer <key>, or X-API-Key: <key>"


class ApiKeys:
    """Who may ask. Where nothing usable can be read, nobody may.

    A folder (a Secret's mount) holds a file for each key, its name the key's; a file holds lines `name: key`.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Blocking, but only reads of small files."""
        self._path = path
        self._clock = clock
        self._seen: object = None
        self._digests: Mapping[str, bytes] = {}
        self._looked = -LOOK_EVERY_S
        self._readings = 0

    def readings(self) -> int:
        """How often keys were read so far: while it stays, who was known is known."""
        self._refresh()
        return self._readings

    def name_of(self, fields: Fields) -> str:
        """The name of the key that a request carries; takes as long whichever it is. Raises UnauthorizedError."""
        self._refresh()
        digest = sha256(_given(fields)).digest()
        found = [name for name, known in self._digests.items() if hmac.compare_digest(digest, known)]
        if not found:
            raise UnauthorizedError(f"the request carries no API key that is known here; {ADVICE}")
        return found[0]

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        try:
            seen = _identity(self._path)
            if seen != self._seen:
                self._readings += 1
                self._digests = {name: sha256(key.encode()).digest() for name, key in read_keys(self._path).items()}
                log.info("api_keys_read", names=sorted(self._digests))
            self._seen = seen
        except (OSError, ValueError) as error:
            if self._seen is not error.__class__:
                log.warning("api_keys_unreadable", path=str(self._path), reason=str(error))
            self._readings += 1
            self._seen, self._digests = error.__class__, {}


def read_keys(path: Path) -> dict[str, str]:
    """Name → key. A key that is too short or too long to be one is left out, and its name logged.

    Raises OSError, or ValueError for a file that is too large or has a line without a name.
    """
    found = _from_folder(path) if path.is_dir() else _from_lines(_read(path))
    usable = {name: key for name, key in found.items() if MIN_KEY_CHARS <= len(key) <= MAX_KEY_CHARS}
    for name in sorted(found.keys() - usable.keys()):
        log.warning("api_key_unusable", name=name, reason=f"expected {MIN_KEY_CHARS} to {MAX_KEY_CHARS} characters")
    if len(usable) > MAX_KEYS:
        raise ValueError(f"{len(usable)} API keys; expected at most {MAX_KEYS}")
    return usable


def _from_folder(path: Path) -> dict[str, str]:
    files = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".") and entry.is_file()]
    return {entry.name: _read(entry).strip() for entry in files[: MAX_KEYS + 1]}


def _from_lines(text: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, key = line.partition(":")
        if not separator or not name.strip():
            raise ValueError(f"line {number} is not `name: key`")
        found[name.strip()] = key.strip()
    return found


def _read(path: Path) -> str:
    with path.open("rb") as handle:
        raw = handle.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_FILE_BYTES} bytes")
    return raw.decode()


def _identity(path: Path) -> object:
    """Changes when a key does: the kubelet swaps the link `..data`, an editor writes or replaces the file."""
    entries = [path, path / "..data", *path.iterdir()] if path.is_dir() else [path]
    states = [(entry.name, entry.stat()) for entry in entries if entry.exists()]
    return tuple((name, state.st_ino, state.st_mtime_ns, state.st_size) for name, state in states)


def _given(fields: Fields) -> bytes:
    authorization = fields.get(b"authorization", b"")
    if authorization[: len(BEARER)].lower() == BEARER:
        return authorization[len(BEARER) :].strip()
    return fields.get(b"x-api-key", b"").strip()
