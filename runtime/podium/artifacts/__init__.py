"""Artifacts: fetched from their store, hashed on the way, kept in a content-addressed cache. A leaf of the runtime."""

from podium.artifacts.digest import digest_of
from podium.artifacts.entries import Fetched
from podium.artifacts.errors import ArtifactDigestMismatchError, ArtifactError, ArtifactUnavailableError
from podium.artifacts.fetching import Limits
from podium.artifacts.store import ArtifactStore

__all__ = [
    "ArtifactDigestMismatchError",
    "ArtifactError",
    "ArtifactStore",
    "ArtifactUnavailableError",
    "Fetched",
    "Limits",
    "digest_of",
]
