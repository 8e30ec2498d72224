"""Shadowing in contract 2: which requests a candidate sees copies of, and what the comparison of its answers found."""

from typing import Annotated

from pydantic import Field

from podium_crds.base import Lenient

MAX_DIFFERENCE_CHARS = 256


class OutputTolerance(Lenient):
    """How far one output of floats may be from what serves."""

    name: str
    absolute: float = 0.0
    relative: float = 0.0


class Shadow(Lenient):
    """Copies for a candidate. Its answers are compared with those that clients got, and thrown away."""

    revision: str
    """The candidate. What others answer is copied to it."""
    percent: Annotated[int, Field(ge=1, le=100)]
    """Share of those requests, spread evenly."""
    tolerance: float = 0.001
    """Of floats, absolute and relative; everything else must be equal."""
    outputs: tuple[OutputTolerance, ...] = ()
    """Outputs with a tolerance of their own."""


class ShadowReport(Lenient):
    """What a pod found since the copies, or the shares of traffic, were last changed."""

    policy: Shadow | None = None
    """What is in force. None: nothing is copied to this revision."""
    compared: int = 0
    """Answers that were compared."""
    mismatched: int = 0
    """Of these, answers beyond the tolerance."""
    failed: int = 0
    """Copies that it could not answer, by its own fault."""
    dropped: int = 0
    """Copies that say nothing: no room, no time, too large, or a stream."""
    worst: Annotated[str, Field(max_length=MAX_DIFFERENCE_CHARS)] = ""
    """The largest difference: which output, and how far off; or why the last copy failed."""
