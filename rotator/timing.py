"""Durations as people write them; pure."""

import re
from datetime import UTC, datetime, timedelta

from rotator.text import visible

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


def parse_duration(text: str) -> timedelta:
    """Return the duration that "90d", "36h", "15m" or "1h30m" says.

    Raises:
        ValueError: It says none; the message names the form.
    """
    compact = text.strip().replace(" ", "")
    parts = _DURATION.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(f'{_shown(text)} is not a duration; write for example "90d", "36h", "15m" or "30s"')
    try:
        return sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta())
    except OverflowError:
        raise ValueError(f"{_shown(text)} is longer than a duration can be") from None


def parse_percent(text: str) -> float:
    """Return the fraction, 0 to 1, that "20%" says.

    Raises:
        ValueError: It says none.
    """
    match = _PERCENT.fullmatch(text.strip())
    if match is None or float(match[1]) > 100:
        raise ValueError(f'{_shown(text)} is not a percentage; write for example "20%"')
    return float(match[1]) / 100


def _shown(text: str) -> str:
    """Return what was found, for an error; of a long text only the start: somebody may have pasted a secret."""
    return f"'{visible(text, 20)}'"


def spoken(duration: timedelta) -> str:
    """Return a duration in its two largest units: "3d 4h"; negative ones with a minus."""
    seconds = round(duration.total_seconds())
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return sign + (" ".join(parts[:2]) or "0s")


def stamp(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
