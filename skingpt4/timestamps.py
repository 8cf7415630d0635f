"""The time as every file of this software writes it."""

from datetime import UTC, datetime


def now() -> str:
    """The time, UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
