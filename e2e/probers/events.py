"""Answers in chunks, as server-sent events: whether one came whole, and the numbers in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from .http1 import Answer

MEDIA_TYPE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `name` is empty for a chunk."""

    name: str
    data: str


def events(text: str) -> Iterator[Event]:
    """The events of a stream in order; comments say nothing."""
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != ":")
        if fields:
            yield Event(fields.get("event", ""), fields.get("data", ""))


def broken(answer: Answer) -> str | None:
    """Why a stream is not whole, though its status was 200; None where it is, and for any other answer."""
    if not answer.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return None
    text = answer.body.decode("utf-8", "replace")
    said = list(events(text))
    if not said or said[-1].name != "end":
        return f"stream: ended without its end: {text[-300:]!r}"
    if json.loads(said[-1].data).get("chunks") != len(said) - 1:
        return f"stream: {len(said) - 1} chunks came, its end says {said[-1].data}"
    return None
