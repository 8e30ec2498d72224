"""Figures as the page writes them. Pure."""

from math import isinf

from podium_crds.assignment import LATENCY_BOUNDS_S

UNKNOWN = "—"


def rate(per_s: float | None) -> str:
    """`12.5/s`, `1.2k/s`; `—` where nothing can be said yet."""
    if per_s is None:
        return UNKNOWN
    if per_s >= 10_000:
        return f"{per_s / 1000:.0f}k/s"
    if per_s >= 1000:
        return f"{per_s / 1000:.1f}k/s"
    return f"{per_s:.0f}/s" if per_s >= 100 or per_s == 0 else f"{per_s:.1f}/s" if per_s >= 0.05 else "< 0.1/s"


def duration(seconds: float | None) -> str:
    """`0.8 ms`, `12 ms`, `1.4 s`; `—` where nothing ended."""
    if seconds is None:
        return UNKNOWN
    if isinf(seconds):
        return f"> {LATENCY_BOUNDS_S[-1]:g} s"
    if seconds >= 0.9995:
        return f"{seconds:.1f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 9.95 else f"{milliseconds:.1f} ms"


def failures(per_s: float | None) -> str:
    """Nothing where nothing fails: a page of zeros hides the one that is none."""
    return f"{rate(per_s)} failing" if per_s else ""
