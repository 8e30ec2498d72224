"""`decodes` and `encodes`: how a model's own code reads and writes bodies of content types that Podium does not know.

A marked function is found where the model's code is: in the module of the entrypoint, or in `podium_codecs.py` at the
top of the artifact. It runs in a worker of its own beside the model's, never in the front end: what a hostile body does
to it, it does to that process alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]
    Decoder = Callable[[bytes, str], Arrays]
    Encoder = Callable[[Arrays], bytes]

Marked = TypeVar("Marked", bound=Callable[..., Any])

MARK = "__podium_codecs__"
"""Attribute of a marked function: a tuple of `CodecMark`."""
MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}\Z")
RESERVED = frozenset(
    {
        "application/json",
        "application/msgpack",
        "application/x-msgpack",
        "application/x-www-form-urlencoded",
        "text/event-stream",
    }
)
"""Forms that mean the same for every model."""


class Direction(StrEnum):
    """Whether a codec reads bodies or writes them."""

    DECODE = "decode"
    ENCODE = "encode"


@dataclass(frozen=True, slots=True)
class CodecMark:
    """That a function is a codec for one content type."""

    direction: Direction
    media_type: str


def decodes(*media_types: str) -> Callable[[Marked], Marked]:
    """Marks `function(body: bytes, content_type: str)` as what reads bodies of these types into the model's inputs.

    It returns arrays by input name, as they are declared, rows included. What it raises is answered with 400 and the
    words of the exception: say what is wrong with the body. `content_type` is the request's header with its parameters.
    Its type is checked before it is called, its arrays are checked against the declared inputs after it.
    """
    return _marking(Direction.DECODE, media_types)


def encodes(*media_types: str) -> Callable[[Marked], Marked]:
    """Marks `function(outputs)` as what writes answers of these types, for clients that accept them.

    It gets arrays by output name, read-only and valid during the call alone, and returns bytes or text. What it raises
    is a fault of the model: 500.
    """
    return _marking(Direction.ENCODE, media_types)


def _marking(direction: Direction, media_types: tuple[str, ...]) -> Callable[[Marked], Marked]:
    if not media_types:
        raise ValueError(f"@{direction}s needs a content type, such as @{direction}s('image/tiff')")
    for media_type in media_types:
        if not isinstance(media_type, str) or not MEDIA_TYPE.match(media_type):
            raise ValueError(
                f"@{direction}s({media_type!r}): expected type/subtype in lower case, without parameters, "
                "such as 'image/tiff'"
            )
        if media_type in RESERVED:
            raise ValueError(f"@{direction}s({media_type!r}): that type means the same for every model; choose another")
    marks = tuple(CodecMark(direction, media_type) for media_type in media_types)

    def mark(function: Marked) -> Marked:
        setattr(function, MARK, (*getattr(function, MARK, ()), *marks))
        return function

    return mark
