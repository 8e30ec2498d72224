"""Wall-clock times as they are written into reports."""

from datetime import UTC, datetime


def utc_now() -> str:
    """Now, RFC 3339 with milliseconds, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
