"""What travels to and from a worker that runs a model's own codecs: tensors with names that no model's tensors have.

| job | inputs | answer |
|---|---|---|
| decode | JOB, TYPE, BODY | the model's inputs, or ERROR |
| encode | JOB, TYPE, the model's outputs | BODY, or ERROR |

JOB and TYPE are BYTES without a dimension, so that no job shares a batch with another. ERROR is a `Problem` and words.
"""

from enum import StrEnum

JOB = ":job"
"""DECODE or ENCODE."""
DECODE = b"decode"
ENCODE = b"encode"
TYPE = ":type"
"""The content type, with its parameters."""
BODY = ":body"
"""UINT8 `[bytes]`."""
ERROR = ":error"


class Problem(StrEnum):
    """Why a codec has no result."""

    REFUSED = "refused"
    """The body is not what its content type says."""
    TOO_LARGE = "too_large"
    """What the body stands for is too large."""
    BROKEN = "broken"
    """The codec is at fault."""
