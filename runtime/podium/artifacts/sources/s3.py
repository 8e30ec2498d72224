"""Artifacts in S3 and stores that speak its protocol: one object, or every object below a prefix."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from podium.artifacts.digest import CHUNK_BYTES
from podium.artifacts.errors import ArtifactUnavailableError, TransientFetchError
from podium.artifacts.sources.base import Listing, RemoteFile, Stream, read_credentials

MAX_OBJECTS = 100_000
STORE_ERRORS = (BaseError, OSError)
"""obstore raises the built-in FileNotFoundError and PermissionError for some answers, its own classes for others."""
SETTINGS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "aws_region": "region",
    "aws_default_region": "region",
    "aws_endpoint_url_s3": "endpoint",
    "aws_endpoint_url": "endpoint",
}
"""Names in the Secret (or the environment, in capitals) → settings of the store."""


class S3Source:
    """`s3://bucket/key` or `s3://bucket/prefix/`. Keys, region and endpoint: from the Secret, else the environment."""

    def __init__(self, uri: str, credentials_path: str | None, timeout_s: float) -> None:
        self._uri = uri
        self._bucket, _, self._key = uri.removeprefix("s3://").partition("/")
        if not self._bucket or not self._key:
            raise ArtifactUnavailableError(f"{uri!r} names no object; expected s3://bucket/key or s3://bucket/prefix/")
        self._credentials_path = credentials_path
        self._timeout_s = timeout_s
        self._is_object = False

    def list(self) -> Listing:
        """The object of that key, else all objects below it as a prefix."""
        store = self._store()
        try:
            if not self._key.endswith("/"):
                try:
                    size = obstore.head(store, self._key)["size"]
                    self._is_object = True
                    return Listing((RemoteFile(PurePosixPath(self._key).name, size),), single=True)
                except (NotFoundError, FileNotFoundError):
                    pass  # not an object: a prefix, or nothing
            return Listing(tuple(self._below(store)), single=False)
        except STORE_ERRORS as error:
            raise TransientFetchError(f"cannot list {self._uri}: {_first_line(error)}") from error

    def _below(self, store: S3Store) -> Iterator[RemoteFile]:
        prefix = self._key.rstrip("/") + "/"
        count = 0
        for batch in obstore.list(store, prefix):
            for entry in batch:
                count += 1
                if count > MAX_OBJECTS:
                    raise ArtifactUnavailableError(f"{self._uri} holds more than {MAX_OBJECTS} objects")
                yield RemoteFile(entry["path"].removeprefix(prefix), entry["size"])
        if not count:
            raise TransientFetchError(f"{self._uri} does not exist: no object, and none below it")

    @contextmanager
    def open(self, file: RemoteFile) -> Iterator[Stream]:
        """The object in pieces."""
        path = self._key if self._is_object else f"{self._key.rstrip('/')}/{file.path}"
        try:
            pieces = obstore.get(self._store(), path).stream(min_chunk_size=CHUNK_BYTES)
            yield Stream(file.size, (bytes(piece) for piece in pieces))
        except STORE_ERRORS as error:
            raise TransientFetchError(f"cannot get {path} of {self._bucket}: {_first_line(error)}") from error

    def _store(self) -> S3Store:
        secrets = read_credentials(self._credentials_path)
        config: dict[str, Any] = {}
        for name, setting in SETTINGS.items():
            if value := secrets.get(name) or os.environ.get(name.upper()):
                config.setdefault(setting, value)
        config.setdefault("region", "us-east-1")
        if "access_key_id" not in config and "AWS_WEB_IDENTITY_TOKEN_FILE" not in os.environ:
            config["skip_signature"] = True
        return S3Store(
            self._bucket,
            config=config,
            client_options={
                "allow_http": str(config.get("endpoint", "")).startswith("http://"),
                "timeout": timedelta(hours=6),
                "connect_timeout": timedelta(seconds=min(10.0, self._timeout_s)),
                "read_timeout": timedelta(seconds=self._timeout_s),
            },
            retry_config={"max_retries": 0},
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
