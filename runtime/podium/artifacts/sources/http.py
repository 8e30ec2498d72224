"""Artifacts behind a web server: one file, most often an archive."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import httpx

from podium.artifacts.digest import CHUNK_BYTES
from podium.artifacts.errors import TransientFetchError
from podium.artifacts.sources.base import Listing, RemoteFile, Stream, read_credentials

MAX_REDIRECTS = 5


class HttpSource:
    """`https://…` or `http://…` of one file. Credentials: `token` (bearer), or `username` and `password`."""

    def __init__(self, uri: str, credentials_path: str | None, timeout_s: float) -> None:
        self._uri = uri
        self._credentials_path = credentials_path
        self._timeout_s = timeout_s

    def list(self) -> Listing:
        """The one file; its size comes with its bytes."""
        name = PurePosixPath(unquote(urlsplit(self._uri).path)).name or "artifact"
        return Listing((RemoteFile(name, None),), single=True)

    @contextmanager
    def open(self, file: RemoteFile) -> Iterator[Stream]:  # noqa: ARG002 - there is only one
        """The body in pieces, exactly as stored (no content decoding that the server was not asked for)."""
        try:
            with self._client() as client, client.stream("GET", self._uri) as response:
                if response.status_code != httpx.codes.OK:
                    raise TransientFetchError(f"GET {_shown(self._uri)} answered {response.status_code}")
                length = response.headers.get("content-length")
                yield Stream(int(length) if length else None, response.iter_raw(CHUNK_BYTES))
        except httpx.HTTPError as error:
            raise TransientFetchError(f"GET {_shown(self._uri)} failed: {error or type(error).__name__}") from error

    def _client(self) -> httpx.Client:
        secrets = read_credentials(self._credentials_path)
        headers = {"accept-encoding": "identity"}
        if token := secrets.get("token"):
            headers["authorization"] = f"Bearer {token}"
        named = {"username", "password"} <= secrets.keys()
        return httpx.Client(
            headers=headers,
            auth=httpx.BasicAuth(secrets["username"], secrets["password"]) if named else None,
            timeout=self._timeout_s,
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
        )


def _shown(uri: str) -> str:
    """The URI without its query, which may hold a signature."""
    return uri.partition("?")[0]
