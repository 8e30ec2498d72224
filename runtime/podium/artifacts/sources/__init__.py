"""Where artifacts come from: one module a kind of store, each yielding its files as byte streams.

The clients of stores are imported at the first artifact that needs one: they are 15 MiB of memory.
"""

from podium.artifacts.errors import ArtifactUnavailableError
from podium.artifacts.sources.base import Source
from podium.artifacts.sources.files import FileSource, InlineSource
from podium_crds.assignment import Artifact


def source_of(artifact: Artifact, timeout_s: float) -> Source:
    """The source that an artifact names. Raises ArtifactUnavailableError for an unknown scheme."""
    if artifact.files is not None:
        return InlineSource(artifact.files)
    if artifact.uri is None:
        raise ArtifactUnavailableError("artifact has neither a uri nor files")
    scheme, separator, _ = artifact.uri.partition("://")
    match scheme if separator else "":
        case "file":
            return FileSource(artifact.uri)
        case "http" | "https":
            from podium.artifacts.sources.http import HttpSource

            return HttpSource(artifact.uri, artifact.credentials_path, timeout_s)
        case "s3":
            from podium.artifacts.sources.s3 import S3Source

            return S3Source(artifact.uri, artifact.credentials_path, timeout_s)
        case _:
            raise ArtifactUnavailableError(
                f"cannot fetch {artifact.uri!r}; expected file://, http://, https:// or s3://"
            )
