"""Why an artifact could not be had. Each error names the reason that the report gives."""

from podium.errors import PodiumError
from podium_crds.reasons import Reason


class ArtifactError(PodiumError):
    """An artifact is not there to be loaded. `reason` is what the revision's report says."""

    reason: Reason = Reason.ARTIFACT_UNAVAILABLE


class ArtifactUnavailableError(ArtifactError):
    """The store does not answer, does not have it, refuses us, or holds something that cannot be unpacked safely."""


class ArtifactDigestMismatchError(ArtifactError):
    """The bytes fetched are not the bytes pinned. Someone overwrote the artifact, or the digest is wrong."""

    reason = Reason.ARTIFACT_DIGEST_MISMATCH


class TransientFetchError(Exception):
    """One attempt failed; another may succeed. Never leaves this package."""


class FetchCancelledError(Exception):
    """The load that wanted the artifact was given up. Never leaves this package."""
