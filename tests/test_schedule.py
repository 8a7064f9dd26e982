"""Schedules and windows: the right instants, above all on the days on which clocks move."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotator.schedule import EPOCH, Schedule, Windows, longest_gap, next_allowed, parse_zone, stretches

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MOMENT = timedelta(microseconds=1)
QUARTERS = [(hour, minute) for hour in range(24) for minute in (0, 15, 30, 45)]
ZONES = [
    "Europe/Berlin", "Europe/London", "America/New_York", "America/St_Johns", "America/Havana", "America/Santiago",
    "America/Asuncion", "America/Nuuk", "Atlantic/Azores", "Africa/Cairo", "Africa/Casablanca", "Asia/Beirut",
    "Asia/Gaza", "Asia/Jerusalem", "Australia/Sydney", "Australia/Lord_Howe", "Pacific/Auckland", "Pacific/Chatham",
    "Antarctica/Troll",
]  # fmt: skip


@cache
def switches(name: str) -> tuple[datetime, ...]:
    """Return every instant from 2024 to 2030 at which the zone moves its clock, found by looking at each minute."""
    zone, found = ZoneInfo(name), []
    for day in range((datetime(2031, 1, 1, tzinfo=UTC) - datetime(2024, 1, 1, tzinfo=UTC)).days):
        start = datetime(2024, 1, 1, tzinfo=UTC) + day * DAY
        if offset(start, zone) != offset(start + DAY, zone):
            minutes = (start + number * MINUTE for number in range(1, 24 * 60 + 1))
            found.append(next(at for at in minutes if offset(at, zone) != offset(start, zone)))
    return tuple(found)


def offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def days_around(switch: datetime, zone: ZoneInfo) -> list[date]:
    """Return the local dates just before and after the switch, and one more on each side."""
    before, after = (at.astimezone(zone).date() for at in (switch - MINUTE, switch))
    return [before - DAY, *sorted({before, after}), after + DAY]


def meant_for(moment: datetime, wanted: time, switch: datetime, zone: ZoneInfo) -> date:
    """Return the day whose `wanted` a moment stands for: in Nuuk the last hour of a day is skipped."""
    local = moment.astimezone(zone)
    last = (switch - MINUTE).astimezone(zone).replace(tzinfo=None)
    skipped = moment == switch and last < datetime.combine(last.date(), wanted) < local.replace(tzinfo=None)
    return last.date() if skipped else local.date()


@st.composite
def switch(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """One switch of one zone."""
    name = draw(st.sampled_from(ZONES))
    return ZoneInfo(name), draw(st.sampled_from(switches(name)))


@st.composite
def near_a_switch(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """A moment within two days of a switch."""
    zone, at = draw(switch())
    return zone, at + timedelta(seconds=draw(st.integers(-2 * 86400, 2 * 86400)), microseconds=draw(st.integers(0, 1)))


def test_the_zones_have_switches_of_every_kind() -> None:
    """What is tested below is there: half hours, two hours, midnights, and seven years of rules."""
    sizes = {offset(at, ZoneInfo(n)) - offset(at - MINUTE, ZoneInfo(n)) for n in ZONES for at in switches(n)}
    assert {HOUR, -HOUR, HOUR / 2, -HOUR / 2, 2 * HOUR, -2 * HOUR} <= sizes
    assert len(switches("Europe/Berlin")) == 14
    midnights = {n for n in ZONES for at in switches(n) if (at - MINUTE).astimezone(ZoneInfo(n)).hour == 23}
    assert {"Asia/Beirut", "Africa/Cairo", "America/Santiago", "America/Asuncion"} <= midnights


@pytest.mark.parametrize("name", ZONES)
def test_a_daily_cron_runs_exactly_once_on_every_day_around_a_switch(name: str) -> None:
    """At every quarter near it, on each day beside each switch of seven years: never two runs, never none."""
    zone = ZoneInfo(name)
    for at in switches(name):
        days, wall = days_around(at, zone), at.astimezone(zone).replace(minute=0, tzinfo=None)
        for wanted in ((wall + number * 15 * MINUTE).time() for number in range(-16, 17)):
            schedule = Schedule.parse(f"{wanted.minute} {wanted.hour} * * *", zone)
            runs = list(schedule.between(at - 4 * DAY, at + 4 * DAY))
            for day in days:
                todays = [run for run in runs if meant_for(run, wanted, at, zone) == day]
                assert len(todays) == 1, (schedule.text, day, todays)
                found, exact = todays[0].astimezone(zone).replace(tzinfo=None), datetime.combine(day, wanted)
                assert found == exact or (found > exact and todays[0] == at)


@given(near_a_switch(), st.sampled_from([1, 5, 7, 15, 20, 30]), st.sampled_from([None, 2, 3, 6]))
@settings(max_examples=60, deadline=None)
def test_a_line_that_begins_with_a_star_follows_the_clock(
    near: tuple[ZoneInfo, datetime], minutes: int, hours: int | None
) -> None:
    """`*/15 * * * *` and `0 */3 * * *` fire at each minute whose wall time fits, however far clocks move."""
    zone, start = near
    text = f"*/{minutes} * * * *" if hours is None else f"0 */{hours} * * *"
    first = start.replace(second=0, microsecond=0) + MINUTE
    wanted = [
        at
        for at in (first + number * MINUTE for number in range(26 * 60))
        for wall in (at.astimezone(zone),)
        if (wall.minute % minutes == 0 if hours is None else wall.minute == 0 and wall.hour % hours == 0)
    ]
    assert list(Schedule.parse(text, zone).between(start + MOMENT, first + 26 * HOUR)) == wanted


LINES = st.sampled_from(
    ["30 2 * * *", "0 0 * * *", "0,30 1,2 * * mon-fri", "5 4 1,15 * *", "0 3 13 * 5", "*/10 * * * *", "0 */3 * * *",
     "* 2 * * *", "30 0 * * sun", "every 1h", "every 7m", "every 36h"]
)  # fmt: skip


@given(near_a_switch(), LINES)
@settings(max_examples=200, deadline=None)
def test_before_and_after_agree(near: tuple[ZoneInfo, datetime], text: str) -> None:
    """Nothing of the schedule lies between the previous and the next moment, seen from both."""
    zone, moment = near
    schedule = Schedule.parse(text, zone)
    previous, following = schedule.previous_at(moment), schedule.next_after(moment)
    assert previous <= moment < following
    assert schedule.next_after(previous) == following
    assert schedule.previous_at(following) == following
    assert schedule.previous_at(following - MOMENT) == previous
    assert previous.tzinfo is following.tzinfo is UTC


@given(near_a_switch(), st.integers(1, 100_000))
def test_intervals_are_evenly_spaced_from_one_anchor(near: tuple[ZoneInfo, datetime], minutes: int) -> None:
    """`every N` fires at whole multiples since 1970, so that all replicas and restarts agree."""
    zone, moment = near
    schedule = Schedule.parse(f"every {minutes}m", zone)
    runs = [schedule.next_after(moment)]
    for _ in range(3):
        runs.append(schedule.next_after(runs[-1]))
    assert all(later - earlier == minutes * MINUTE for earlier, later in pairwise(runs))
    assert all((run - EPOCH) % (minutes * MINUTE) == timedelta() for run in runs)
    assert timedelta() < runs[0] - moment <= minutes * MINUTE


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0 3 13 * 5", [2, 9, 13, 16, 23, 30]),
        ("0 3 13 * *", [13]),
        ("0 3 * * 0", [4, 11, 18, 25]),
        ("0 3 * * 7", [4, 11, 18, 25]),
        ("0 3 * * SUN", [4, 11, 18, 25]),
        ("0 3 * * 5-7", [2, 3, 4, 9, 10, 11, 16, 17, 18, 23, 24, 25, 30, 31]),
        ("0 3 */10 * 5", []),
    ],
)
def test_cron_has_vixie_meaning(text: str, days: list[int]) -> None:
    """0 and 7 are Sunday; day of month or day of week, unless one of them begins with a star."""
    runs = Schedule.parse(text, ZoneInfo("UTC")).between(
        datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
    )
    assert [run.day for run in runs] == days


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hourly", 'write "every 1h", or a cron line'),
        ("", "is no schedule"),
        ("every", "is not a duration"),
        ("every hour", "is not a duration"),
        ("every 10s", 'write "every 1m" to "every 366d"'),
        ("every 0h", "too often"),
        ("every 60w", "too seldom"),
        ("0 3 * *", "five fields"),
        ("0 0 3 * * *", "five fields"),
        ("60 3 * * *", "bad minute; write minute hour"),
        ("0 3 * * fri-mon", "bad day-of-week"),
        ("0 3 30 2 *", "bad day-of-month"),
        ("@daily", "is no schedule"),
    ],
)
def test_what_is_no_schedule_is_said_with_the_form(text: str, said: str) -> None:
    """Each mistake is one sentence that names the text and how to write it."""
    with pytest.raises(ValueError, match="'") as caught:
        Schedule.parse(text, ZoneInfo("UTC"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Europe/Berln", "did you mean 'Europe/Berlin'"),
        ("berlin", "did you mean 'Europe/Berlin'"),
        ("New York", "did you mean 'America/New_York'"),
        ("America", "is not a time zone"),
        ("", "is not a time zone"),
        ("/etc/passwd", "is not a time zone"),
        ("../../etc/passwd", "is not a time zone"),
        ("xqzw", 'write an IANA name such as "UTC"'),
    ],
)
def test_an_unknown_zone_names_the_nearest(name: str, said: str) -> None:
    """A zone that does not exist is refused with what was perhaps meant; no path is opened."""
    with pytest.raises(ValueError, match="is not a time zone") as caught:
        parse_zone(name)
    assert said in str(caught.value)


def openings(windows: Windows, start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    """Yield each moment at which the windows open, found by looking at every step."""
    inside = windows.contains(start)
    while start < end:
        start += step
        now = windows.contains(start)
        if now and not inside:
            yield start
        inside = now


@given(switch(), st.sampled_from(QUARTERS), st.integers(1, 48))
@settings(max_examples=150, deadline=None)
def test_a_window_opens_exactly_once_a_day(
    near: tuple[ZoneInfo, datetime], start: tuple[int, int], length: int
) -> None:
    """Whatever the clock does: never two openings, never none, and never shut before its length by the clock."""
    zone, at = near
    minutes = start[0] * 60 + start[1]
    end = (minutes + length * 15) % 1440
    text = f"{start[0]:02}:{start[1]:02}-{end // 60:02}:{end % 60:02}"
    windows = Windows.parse([text], zone)
    days = days_around(at, zone)
    found = [
        meant_for(opens, time(*start), at, zone) for opens in openings(windows, at - 4 * DAY, at + 4 * DAY, 15 * MINUTE)
    ]
    assert [found.count(day) for day in days] == [1] * len(days), (text, found)


@pytest.mark.parametrize(
    ("zone", "text", "opens", "closes"),
    [
        ("Europe/Berlin", "02:15-02:45", "2026-03-29T01:00", "2026-03-29T01:30"),  # wholly skipped
        ("Europe/Berlin", "02:00-03:00", "2026-03-29T01:00", "2026-03-29T02:00"),
        ("Europe/Berlin", "02:30-05:00", "2026-03-29T01:00", "2026-03-29T03:00"),  # begins in the skipped hour
        ("Europe/Berlin", "01:00-02:30", "2026-03-29T00:00", "2026-03-29T01:00"),  # ends in it
        ("Europe/Berlin", "02:15-02:45", "2026-10-25T00:15", "2026-10-25T00:45"),  # comes twice: the first
        ("Europe/Berlin", "02:30-03:30", "2026-10-25T00:30", "2026-10-25T02:30"),  # across the repeated hour
        ("Europe/Berlin", "01:30-02:30", "2026-10-24T23:30", "2026-10-25T00:30"),
        ("Africa/Cairo", "00:15-00:45", "2026-04-23T22:00", "2026-04-23T22:30"),  # midnight is skipped
        ("Africa/Cairo", "22:00-24:00", "2026-10-29T19:00", "2026-10-29T22:00"),  # 23:00 comes twice
        ("Australia/Lord_Howe", "02:00-02:30", "2026-10-03T15:30", "2026-10-03T16:00"),
        ("UTC", "22:00-02:00", "2026-06-01T22:00", "2026-06-02T02:00"),
    ],
)
def test_windows_at_a_switch_are_as_documented(zone: str, text: str, opens: str, closes: str) -> None:
    """Opening and closing are the first instants at which the clock reads them or later."""
    windows = Windows.parse([text], ZoneInfo(zone))
    start, end = (datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in (opens, closes))
    assert windows.next_open(start - HOUR) == start
    assert windows.next_close(start) == end
    assert windows.contains(start)
    assert not windows.contains(end)


TEXTS = [
    "mon-fri 02:00-05:00",
    "sat,sun 00:00-24:00",
    "22:00-02:00",
    "fri-mon 23:00-01:30",
    "02:00-03:00",
    "wed 05:00-06:00",
]
BLACK = ["2026-03-20..2026-04-02", "2026-10-25", "2026-10-24T10:00:00Z..2026-10-25T23:00:00+02:00", "tue 00:00-24:00"]


@given(near_a_switch(), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_opening_and_closing_are_where_containing_changes(near: tuple[ZoneInfo, datetime], texts: list[str]) -> None:
    """next_open and next_close name the very first moment, and the moment itself where it already holds."""
    zone, moment = near
    windows = Windows.parse(texts, zone)
    opens, closes = windows.next_open(moment), windows.next_close(moment)
    assert opens is not None
    assert closes is not None
    assert windows.contains(opens)
    assert not windows.contains(closes)
    assert windows.contains(moment) == (opens == moment) == (closes != moment)
    if opens > moment:
        assert not windows.contains(opens - MOMENT)
        assert not any(windows.contains(moment + (opens - moment) * part / 50) for part in range(50))
    else:
        assert windows.contains(closes - MOMENT)
        assert all(windows.contains(moment + (closes - moment) * part / 50) for part in range(50))


def test_a_window_belongs_to_the_day_on_which_it_opens() -> None:
    """A Friday window that crosses midnight is open early on Saturday, and not early on Friday."""
    windows = Windows.parse(["fri 22:00-02:00"], ZoneInfo("UTC"))
    assert windows.contains(datetime(2026, 11, 28, 1, tzinfo=UTC))
    assert not windows.contains(datetime(2026, 11, 27, 1, tzinfo=UTC))


def test_what_is_always_open_never_closes_and_what_is_past_never_opens() -> None:
    """None says so, and nothing hangs."""
    always = Windows.parse(["00:00-24:00"], ZoneInfo("Europe/Berlin"))
    past = Windows.parse(["2026-01-01"], ZoneInfo("UTC"), dates=True)
    now = datetime(2026, 11, 24, tzinfo=UTC)
    assert always.contains(now)
    assert always.next_close(now) is None
    assert past.next_open(now) is None
    assert past.next_close(now) == now
    assert next_allowed(always, always, now) is None
    assert (
        next_allowed(Windows.parse(["mon 02:00-03:00"], UTC_ZONE), Windows.parse(["mon 00:00-24:00"], UTC_ZONE), now)
        is None
    )
    assert next_allowed(None, None, now) == now


UTC_ZONE = ZoneInfo("UTC")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mon-fri", "is no window; write for example"),
        ("monday 02:00-05:00", "'monday' is no weekday; write mon tue"),
        ("mon-wed-fri 02:00-05:00", "is no weekday"),
        ("mon, 02:00-05:00", "is no weekday"),
        ("25:00-26:00", "25:00 is no time of day"),
        ("02:60-03:00", "is no time of day"),
        ("24:00-02:00", "is empty"),
        ("02:00-02:00", 'is empty; a whole day is "00:00-24:00"'),
        ("2026-12-24..2026-12-20", "ends before it begins"),
        ("2026-12-32", "'2026-12-32' is no date"),
        ("2026-12-24T10:00:00..2026-12-25T10:00:00", "has no time zone; end it in Z"),
        ("2026-12-24..2026-12-25T10:00:00Z", "mixes days and moments"),
        ("2026-12-24..", "is no date"),
        ("2026-12-24..9999-12-31", "the year must be from 1970 to 9998"),
    ],
)
def test_what_is_no_window_is_said_with_the_form(text: str, said: str) -> None:
    """Each mistake is one sentence that names the text and how to write it."""
    with pytest.raises(ValueError, match="'") as caught:
        Windows.parse([text], UTC_ZONE, dates=True)
    assert said in str(caught.value)


@given(st.text("0123456789*/,-#LW:. monfrievyZT+", max_size=30) | st.text(max_size=30))
def test_any_text_is_understood_or_refused_with_a_sentence(text: str) -> None:
    """Nothing but a ValueError leaves the parsers, and what they return can be asked."""
    now = datetime(2026, 11, 24, tzinfo=UTC)
    for ask in (
        lambda: Schedule.parse(text, UTC_ZONE).next_after(now),
        lambda: Schedule.parse(f"0 {text} * * *", UTC_ZONE).previous_at(now),
        lambda: Schedule.parse(f"every {text}", UTC_ZONE).next_after(now),
        lambda: Windows.parse([text], UTC_ZONE, dates=True).next_open(now),
        lambda: Windows.parse([f"2026-12-24..{text}"], UTC_ZONE, dates=True).next_close(now),
        lambda: parse_zone(text),
    ):
        with suppress(ValueError):
            ask()


def test_dates_are_for_blackouts_alone() -> None:
    """Windows come back each week; a date among them would silently never open again."""
    with pytest.raises(ValueError, match="dates are for blackouts"):
        Windows.parse(["2026-12-24..2026-12-26"], UTC_ZONE)


def test_days_of_a_blackout_are_whole_in_its_zone() -> None:
    """The first midnight begins it and the midnight after the last day ends it."""
    blackout = Windows.parse(["2026-12-24..2027-01-02"], ZoneInfo("Europe/Berlin"), dates=True)
    assert blackout.next_open(datetime(2026, 12, 1, tzinfo=UTC)) == datetime(2026, 12, 23, 23, tzinfo=UTC)
    assert blackout.next_close(datetime(2026, 12, 30, tzinfo=UTC)) == datetime(2027, 1, 2, 23, tzinfo=UTC)


@given(
    near_a_switch(),
    st.lists(st.sampled_from(TEXTS), max_size=2),
    st.lists(st.sampled_from(BLACK), max_size=2),
    st.sampled_from(["every 1h", "every 7h", "0 3 * * *", "*/30 * * * *", "15 2 * * mon-fri", "0 4 1,15 * *"]),
)
@settings(max_examples=80, deadline=None)
def test_stretches_and_the_longest_gap_are_what_looking_at_every_sweep_finds(
    near: tuple[ZoneInfo, datetime], texts: list[str], black: list[str], line: str
) -> None:
    """Jumping from stretch to stretch gives the same as asking for each moment of the schedule."""
    zone, start = near
    end = start + 40 * DAY
    windows = Windows.parse(texts, zone) if texts else None
    blackouts = Windows.parse(black, zone, dates=True) if black else None
    schedule = Schedule.parse(line, zone)
    free = list(stretches(windows, blackouts, start, end))
    inside = [at for at in schedule.between(start, end) if any(opens <= at < closes for opens, closes in free)]
    assert inside == [
        at
        for at in schedule.between(start, end)
        if (windows is None or windows.contains(at)) and not (blackouts is not None and blackouts.contains(at))
    ]
    longest = max(later - earlier for earlier, later in pairwise([start, *inside, end]))
    assert longest_gap(schedule, windows, blackouts, start, end).length == longest
