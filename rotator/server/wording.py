"""Moments, durations and numbers as the page says them. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_LONG = 10  # of a unit; from here on the next smaller one says nothing any more


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment, seen from another one.

    Attributes:
        said: Relative: "in 2 d 4 h", "12 min ago".
        exact: For people, in UTC, to the second.
        machine: RFC 3339.
    """

    said: str
    exact: str
    machine: str


def moment(at: datetime | None, now: datetime) -> Moment | None:
    """Return a moment as the page shows it; None stays None."""
    if at is None:
        return None
    at = at.astimezone(UTC)
    return Moment(relative(at, now), f"{at:%Y-%m-%d %H:%M:%S} UTC", f"{at:%Y-%m-%dT%H:%M:%SZ}")


def relative(at: datetime, now: datetime) -> str:
    """Return "in 2 d 4 h" or "12 min ago"."""
    if abs(at - now) < timedelta(minutes=1):
        return "in under a minute" if at > now else "just now"
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def span(duration: timedelta) -> str:
    """Return a duration in its largest unit, and in the next one where that still says something: "2 d 4 h"."""
    seconds = abs(duration.total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    left, parts = int(seconds), list[str]()
    for size, unit in _UNITS:
        count, rest = divmod(left, size)
        if count:
            parts.append(f"{count:,} {unit}")
            left = rest
        if len(parts) == 2 or count >= _LONG or (parts and not count):
            break
    return " ".join(parts)


def counted(count: int, one: str) -> str:
    """Return "1 token" or "1,204 tokens"."""
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"
