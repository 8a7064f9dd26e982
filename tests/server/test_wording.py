"""Moments and durations as the page says them."""

from datetime import timedelta

import pytest

from rotator.server.view import parts
from rotator.server.wording import counted, moment, relative, span
from tests.server.boards import DAY, HOUR, MINUTE, NOW

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("duration", "said"),
    [
        (4.24 * SECOND, "4.2 s"),
        (42 * SECOND, "42 s"),
        (MINUTE, "1 min"),
        (59 * MINUTE + 59 * SECOND, "59 min"),
        (3 * HOUR + 5 * MINUTE, "3 h 5 min"),
        (3 * HOUR, "3 h"),
        (10 * HOUR + 5 * MINUTE, "10 h"),
        (2 * DAY + 4 * HOUR + MINUTE, "2 d 4 h"),
        (2 * DAY + 4 * MINUTE, "2 d"),
        (45 * DAY + 3 * HOUR, "45 d"),
        (4000 * DAY, "4,000 d"),
    ],
)
def test_spans(duration: timedelta, said: str) -> None:
    """Two units where the second still says something, one otherwise."""
    assert span(duration) == said
    if duration >= MINUTE:
        assert (relative(NOW + duration, NOW), relative(NOW - duration, NOW)) == (f"in {said}", f"{said} ago")


def test_the_present() -> None:
    """Less than a minute is not counted in seconds: the page is older than that when it is read."""
    assert (relative(NOW, NOW), relative(NOW + SECOND, NOW)) == ("just now", "in under a minute")


def test_a_moment_says_when_exactly() -> None:
    """The absolute moment is in UTC, for people and for machines."""
    shown = moment(NOW + DAY, NOW)
    assert shown is not None
    assert (shown.said, shown.exact, shown.machine) == ("in 1 d", "2026-03-15 09:26:53 UTC", "2026-03-15T09:26:53Z")
    assert moment(None, NOW) is None


def test_numbers_and_code() -> None:
    """One is singular; backticks make code."""
    assert (counted(1, "token"), counted(0, "token"), counted(1204, "token")) == ("1 token", "0 tokens", "1,204 tokens")
    assert [(part.text, part.is_code) for part in parts("`a b` then `c`")] == [
        ("a b", True),
        (" then ", False),
        ("c", True),
    ]
