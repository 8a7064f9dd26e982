"""When sweeps happen and when tokens may be touched: schedules, windows and blackouts; pure.

`Schedule` says when a policy is swept, `Windows` when its tokens may be rotated (blackouts are Windows too: when they
may not). Both are parsed at load, so a mistake is one sentence there and never a surprise in the night. Wherever wall
time matters, one rule holds at the switches of daylight saving time: *a wall time is the first instant at which the
clock of the zone reads it or later*. So

- a time inside the skipped hour is the instant of the switch, and a time that comes twice is its first occurrence: a
  cron line at a fixed time runs exactly once that day, and a window opens exactly once;
- a window that lies wholly in the skipped hour opens at the switch, for as long as it is by the clock;
- a window closes at the first instant after its opening at which the clock reads its end: where the hour between comes
  twice, it is longer by that hour.

Cron lines are read by `cronsim` as a pattern of wall times alone, and mapped to instants here: handed a zone, it misses
runs of `0 */3 * * *` where clocks move by half an hour. As in Debian's cron, a line whose minute or hour begins with
`*` follows the clock instead: it skips the skipped hour and runs again in the repeated one.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from rotator.timing import parse_duration

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_SHORTEST_STEP, _LONGEST_STEP = timedelta(minutes=1), timedelta(days=366)
_YEARS = range(1970, 9999)
_FURTHEST_SHIFT = timedelta(hours=26)  # no zone has ever moved its clock by more
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CRON_FORM = 'write minute hour day-of-month month day-of-week, such as "0 3 * * mon-fri"'
_MINUTES_A_DAY = 24 * 60
_CLOSE_LOOKS = 10_000  # at so many moments of a cron line one by one
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_WINDOW = re.compile(r"(?:([a-z][a-z,\s-]*)\s)?\s*(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)")
_LONGEST_OPENING = 1000  # windows that touch each other this many times are taken to never close


def parse_zone(name: str) -> ZoneInfo:
    """Return the IANA time zone of a name.

    Raises:
        ValueError: There is none; the message names the nearest.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of the database is an OSError
        zones = sorted(available_timezones())
    lowered = {zone.lower(): zone for zone in zones} | {zone.split("/")[-1].lower(): zone for zone in zones}
    near = difflib.get_close_matches(name.strip().replace(" ", "_").lower(), list(lowered), 1)
    hint = f"did you mean {lowered[near[0]]!r}?" if near else 'write an IANA name such as "UTC" or "Europe/Berlin"'
    raise ValueError(f"{name!r} is not a time zone; {hint}")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The moments at which a policy is swept.

    An interval ("every 1h") fires at whole multiples since 1970 UTC, so that replicas and restarts agree. A cron line
    ("0 3 * * *") is meant in the zone.

    Attributes:
        text: As it was written.
        step: Of an interval; None for a cron line.
    """

    text: str
    zone: ZoneInfo
    step: timedelta | None = None

    @classmethod
    def parse(cls, text: str, zone: ZoneInfo) -> "Schedule":
        """Return the schedule that a text says.

        Raises:
            ValueError: It says none, or one that never fires; the message names the forms.
        """
        words = text.split()
        if words and words[0].lower() == "every":
            step = parse_duration("".join(words[1:]))
            if not _SHORTEST_STEP <= step <= _LONGEST_STEP:
                raise ValueError(f'{text!r} is too often or too seldom; write "every 1m" to "every 366d"')
            return cls(text, zone, step)
        if len(words) != 5:
            raise ValueError(
                f'{text!r} is no schedule; write "every 1h", or a cron line of five fields:'
                ' minute hour day-of-month month day-of-week, such as "0 3 * * mon-fri"'
            )
        try:
            next(CronSim(text, datetime(2024, 1, 1)))  # noqa: DTZ001 - wall time
        except CronSimError as error:
            raise ValueError(f"{text!r} is no cron line: {str(error).lower()}; {_CRON_FORM}") from None
        except StopIteration:
            raise ValueError(f"{text!r} never happens; {_CRON_FORM}") from None
        return cls(text, zone)

    def next_after(self, moment: datetime) -> datetime:
        """Return the first moment of the schedule later than this one, UTC."""
        if self.step is not None:
            return EPOCH + ((moment - EPOCH) // self.step + 1) * self.step
        return self._fixed_after(moment) if self._is_fixed else self._wild_after(moment)

    def previous_at(self, moment: datetime) -> datetime:
        """Return the last moment of the schedule that is not later than this one, UTC."""
        if self.step is not None:
            return EPOCH + (moment - EPOCH) // self.step * self.step
        return self._fixed_before(moment) if self._is_fixed else self._wild_before(moment)

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Yield the moments from `start` up to, not including, `end`, oldest first."""
        moment = self.next_after(start - MOMENT)
        while moment < end:
            yield moment
            moment = self.next_after(moment)

    @property
    def _is_fixed(self) -> bool:
        minute, hour = self.text.split()[:2]
        return not minute.startswith("*") and not hour.startswith("*")

    def _fixed_after(self, moment: datetime) -> datetime:
        # A moment in the second pass of a repeated hour: what the clock is still to read has run in the first.
        walls = CronSim(self.text, _wall(moment, self.zone))
        return next(at for at in (first_at(wall, self.zone) for wall in walls) if at > moment)

    def _fixed_before(self, moment: datetime) -> datetime:
        walls = CronSim(self.text, _wall(moment, self.zone) + _FURTHEST_SHIFT, reverse=True)
        return next(at for at in (first_at(wall, self.zone) for wall in walls) if at <= moment)

    def _wild_after(self, moment: datetime) -> datetime:
        """Walk from one switch to the next: between two of them the clock only adds its offset."""
        offset = _offset(moment, self.zone)
        while True:
            wall = next(CronSim(self.text, moment.replace(tzinfo=None) + offset))
            at = _utc(wall, offset)
            if _offset(at, self.zone) == offset:
                return at
            switch = _switch(self.zone, moment, at, offset)
            moment, offset = switch - MOMENT, _offset(switch, self.zone)

    def _wild_before(self, moment: datetime) -> datetime:
        while True:
            offset = _offset(moment, self.zone)
            later = _wall(moment, self.zone).replace(microsecond=0) + timedelta(seconds=1)
            at = _utc(next(CronSim(self.text, later, reverse=True)), offset)
            if _offset(at, self.zone) == offset:
                return at
            moment = _switch(self.zone, at, moment, _offset(at, self.zone)) - MOMENT


HOURLY = Schedule("every 1h", ZoneInfo("UTC"), timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class _Weekly:
    """One window: minutes of the days it opens on; an end beyond 24 hours lies on the day after."""

    days: frozenset[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Windows:
    """Stretches of time: where rotations may begin, or, as blackouts, may not.

    Attributes:
        texts: As they were written.
        weekly: Those that come back, by weekday.
        dates: Those that come once, UTC.
    """

    texts: tuple[str, ...]
    zone: ZoneInfo
    weekly: tuple[_Weekly, ...] = ()
    dates: tuple[tuple[datetime, datetime], ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str], zone: ZoneInfo, *, dates: bool = False) -> "Windows":
        """Return the windows that texts such as "mon-fri 02:00-05:00", "sat,sun 00:00-24:00" or "22:00-02:00" say.

        Args:
            texts: One or more. A window that crosses midnight belongs to the day on which it opens.
            zone: Whose clock is meant.
            dates: Also accept "2026-12-24..2027-01-02" (days, the last one included) and RFC 3339 moments in place
                of days.

        Raises:
            ValueError: A text says none; the message names the forms.
        """
        weekly, spans = [], []
        for text in texts:
            if ".." in text or _DATE.match(text.strip()):
                if not dates:
                    raise ValueError(f"{text!r} is a date; windows come back each week, dates are for blackouts")
                spans.append(_span(text, zone))
            else:
                weekly.append(_weekly(text, dates=dates))
        return cls(tuple(texts), zone, tuple(weekly), tuple(spans))

    def contains(self, moment: datetime) -> bool:
        """Whether one of them is open at a moment; the end is no part of it."""
        return any(start <= moment < end for start, end in self._near(moment, 0))

    def next_open(self, moment: datetime) -> datetime | None:
        """Return the first moment, this one included, at which one of them is open; None if none ever is again."""
        # Eight days hold an opening of every weekly window.
        opens = [max(start, moment) for start, end in self._near(moment, 8) if end > moment]
        return min(opens, default=None)

    def next_close(self, moment: datetime) -> datetime | None:
        """Return the first moment, this one included, at which none of them is open; None if they never close."""
        for _ in range(_LONGEST_OPENING):
            end = max((end for start, end in self._near(moment, 0) if start <= moment < end), default=None)
            if end is None:
                return moment
            moment = end
        return None

    def _near(self, moment: datetime, days_ahead: int) -> Iterator[tuple[datetime, datetime]]:
        """Yield what may be open at a moment or open within some days after it, in no order."""
        yield from self.dates
        today = _wall(moment, self.zone).date()
        for days in range(-2, days_ahead + 2):  # yesterday's may reach past midnight; at a switch a day may come twice
            day = today + timedelta(days)
            for window in self.weekly:
                if day.weekday() in window.days:
                    yield _opening(window, day, self.zone)


def next_allowed(windows: Windows | None, blackouts: Windows | None, moment: datetime) -> datetime | None:
    """Return the first moment, this one included, inside the windows and outside the blackouts.

    Args:
        windows: None if always.
        blackouts: None if never.
        moment: UTC.

    Returns:
        None if there is none for years.
    """
    for _ in range(_LONGEST_OPENING):
        opens = windows.next_open(moment) if windows else moment
        free = blackouts.next_close(opens) if blackouts and opens else opens
        if free is None or free == opens:
            return free
        moment = free
    return None


def stretches(
    windows: Windows | None, blackouts: Windows | None, start: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """Yield each (from, until) inside the windows and outside the blackouts, cut to `start` and `end`, in order."""
    opens = next_allowed(windows, blackouts, start)
    while opens is not None and opens < end:
        closes = min(windows.next_close(opens) or end, end) if windows else end
        if blackouts:
            closes = min(blackouts.next_open(opens) or end, closes)
        yield opens, closes
        opens = next_allowed(windows, blackouts, closes)


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without a sweep that may rotate, UTC."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return self.end - self.start


def longest_gap(
    schedule: Schedule, windows: Windows | None, blackouts: Windows | None, start: datetime, end: datetime
) -> Gap:
    """Return the longest time between two sweeps that fall inside the windows and outside the blackouts.

    `start` and `end` count as sweeps, so what is returned is never longer than the truth.

    Args:
        schedule: Of the policy; likewise `windows` and `blackouts`.
        start: UTC; likewise `end`. A year shows what weekdays and seasons do.
    """
    longest, last, looks = Gap(start, start), start, iter(range(_CLOSE_LOOKS))
    for opens, closes in stretches(windows, blackouts, start, end):
        first = schedule.next_after(opens - MOMENT)
        if first >= closes:
            continue
        longest = max(longest, Gap(last, first), _longest_within(schedule, first, closes, looks), key=_length)
        last = schedule.previous_at(closes - MOMENT)
    return max(longest, Gap(last, end), key=_length)


def _longest_within(schedule: Schedule, first: datetime, closes: datetime, looks: Iterator[int]) -> Gap:
    """Return the longest gap of a stretch; of a line that fires very often only the first weeks are looked at."""
    second = schedule.next_after(first)
    if second >= closes:
        return Gap(first, first)
    if schedule.step is not None:
        return Gap(first, second)
    moments = (moment for _, moment in zip(looks, schedule.between(first, closes), strict=False))
    return max((Gap(*pair) for pair in pairwise(moments)), key=_length, default=Gap(first, second))


def _length(gap: Gap) -> timedelta:
    return gap.length


def _opening(window: _Weekly, day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    midnight = datetime.combine(day, time())
    start = first_at(midnight + timedelta(minutes=window.start), zone)
    end = first_at(midnight + timedelta(minutes=window.end), zone)
    return start, end if end > start else start + timedelta(minutes=window.end - window.start)


def _weekly(text: str, *, dates: bool) -> _Weekly:
    match = _WINDOW.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no window; {_form(dates=dates)}")
    days = frozenset(_weekdays(match[1], text)) if match[1] else frozenset(range(7))
    start, end = (_minutes(hour, minute, text) for hour, minute in (match.group(2, 3), match.group(4, 5)))
    if start in (end, _MINUTES_A_DAY):
        raise ValueError(f'{text!r} is empty; a whole day is "00:00-24:00"')
    return _Weekly(days, start, end if end > start else end + _MINUTES_A_DAY)


def _weekdays(text: str, whole: str) -> Iterator[int]:
    for part in text.split(","):
        names = [name.strip() for name in part.split("-")]
        unknown = next((name for name in names if name not in _DAYS), None)
        if unknown is not None or len(names) > 2:
            raise ValueError(
                f"{whole!r}: {unknown or part.strip()!r} is no weekday; write {' '.join(_DAYS)}, or mon-fri"
            )
        first, last = _DAYS.index(names[0]), _DAYS.index(names[-1])
        yield from ((first + step) % 7 for step in range((last - first) % 7 + 1))


def _minutes(hour: str, minute: str, text: str) -> int:
    minutes = int(hour) * 60 + int(minute)
    if int(minute) > 59 or minutes > _MINUTES_A_DAY:
        raise ValueError(f"{text!r}: {hour}:{minute} is no time of day; write 00:00 to 24:00")
    return minutes


def _span(text: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    first, dots, last = (part.strip() for part in text.partition(".."))
    start, end = _date(first, text), _date(last if dots else first, text)
    if (start.tzinfo is None) != (end.tzinfo is None):
        raise ValueError(f"{text!r} mixes days and moments; write two of a kind")
    if end < start:
        raise ValueError(f"{text!r} ends before it begins")
    if start.tzinfo is None:
        return first_at(start, zone), first_at(end + _DAY, zone)
    return start.astimezone(UTC), end.astimezone(UTC)


def _date(part: str, text: str) -> datetime:
    """Return a moment of a zone, or a day as its midnight without one."""
    try:
        moment = datetime.fromisoformat(part)
    except ValueError:
        raise ValueError(f"{text!r}: {part!r} is no date; {_form(dates=True)}") from None
    if moment.year not in _YEARS:
        raise ValueError(f"{text!r}: the year must be from {_YEARS.start} to {_YEARS.stop - 1}")
    if moment.tzinfo is None and not _DATE.fullmatch(part):
        raise ValueError(f"{text!r}: {part!r} has no time zone; end it in Z")
    return moment


def _form(*, dates: bool) -> str:
    also = ', or dates such as "2026-12-24..2027-01-02"' if dates else ""
    return f'write for example "mon-fri 02:00-05:00", "sat,sun 00:00-24:00" or "22:00-02:00"{also}'


@lru_cache(maxsize=4096)
def first_at(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant at which the clock of the zone reads a wall time or later, UTC."""
    at = wall.replace(tzinfo=zone).astimezone(UTC)  # of a time that comes twice the first
    if _wall(at, zone) == wall:
        return at
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _switch(zone, before, at, _offset(before, zone))


def _switch(zone: ZoneInfo, before: datetime, after: datetime, offset: timedelta) -> datetime:
    """Return the first instant, in (before, after], at which the zone no longer has an offset; found by halving."""
    low, high = int(before.timestamp() // 1), int(after.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(datetime.fromtimestamp(middle, UTC), zone) == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _utc(wall: datetime, offset: timedelta) -> datetime:
    return (wall - offset).replace(tzinfo=UTC)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()
