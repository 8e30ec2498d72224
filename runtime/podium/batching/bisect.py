"""Isolates the bad request of a failed batch: halves are run again until a request fails alone.

At most 2·log2(n) extra forwards for one bad request among n.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def halves(batch: Sequence[T]) -> tuple[list[T], list[T]]:
    """Two parts of a failed batch of at least two requests, in order."""
    assert len(batch) >= 2, "a request that failed alone is the culprit"
    middle = (len(batch) + 1) // 2
    return list(batch[:middle]), list(batch[middle:])
