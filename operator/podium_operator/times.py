"""RFC 3339 times, to and from. A leaf; PURE."""

from datetime import UTC, datetime


def rfc3339(time: datetime) -> str:
    """UTC, whole seconds, as Kubernetes writes it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime | None:
    """The time, or None where the text is none or names no zone."""
    if not isinstance(text, str):
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo is not None else None
