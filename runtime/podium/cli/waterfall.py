"""The stages of one request as bars under one another. PURE."""

import re
from typing import NamedTuple

WIDTH = 48
_ENTRY = re.compile(r"\s*(?P<name>[^;,\s]+)(?P<rest>(?:;[^,]*)?)")
_OWN = frozenset({"dur", "start", "desc"})


class Bar(NamedTuple):
    """One stage. Milliseconds from the request's head."""

    label: str
    start_ms: float
    duration_ms: float
    note: str


def waterfall(server_timing: str) -> str:
    """A line for each stage of a Server-Timing header, as they began; says so where there is none."""
    bars = sorted(_bars(server_timing), key=lambda bar: (bar.start_ms, -bar.duration_ms))
    if not bars:
        return "the server told nothing of its time"
    longest = max(bar.start_ms + bar.duration_ms for bar in bars) or 1.0
    width = max(len(bar.label) for bar in bars)
    return "\n".join(_line(bar, width, longest) for bar in bars)


def _line(bar: Bar, width: int, longest: float) -> str:
    begin = round(WIDTH * bar.start_ms / longest)
    length = max(1, round(WIDTH * bar.duration_ms / longest))
    drawn = (" " * begin + "█" * length)[: WIDTH + 1]
    return f"{bar.label:<{width}} {drawn:<{WIDTH + 1}} {bar.duration_ms:9.3f} ms  {bar.note}".rstrip()


def _bars(server_timing: str) -> list[Bar]:
    found = []
    for entry in server_timing.split(","):
        match = _ENTRY.match(entry)
        if match is None:
            continue
        facts = dict(part.split("=", 1) for part in match["rest"].split(";") if "=" in part)
        subject = facts.get("desc", "").strip('"')
        note = " ".join(f"{name}={value}" for name, value in facts.items() if name not in _OWN)
        label = f"{match['name']} {subject}".rstrip()
        found.append(Bar(label, float(facts.get("start", 0)), float(facts.get("dur", 0)), note))
    return found
