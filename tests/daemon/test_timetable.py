"""The moments at which policies are swept."""

import threading
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from rotator.daemon.timetable import Dates, Timetable, missed
from rotator.schedule import Schedule

SECOND = timedelta(seconds=1)


def test_fires_when_the_schedule_says_so_also_where_clocks_move() -> None:
    """The trigger has the moments of `Schedule`, DST switches of Lord Howe Island included."""
    schedule = Schedule.parse("30 2 * * *", ZoneInfo("Australia/Lord_Howe"))
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    trigger, moments, last = Dates(schedule), [], None
    while (last := trigger.get_next_fire_time(last, start)) < end:
        moments.append(last)
    assert moments == list(schedule.between(start, end))
    assert len(moments) == 365


def test_missed_moments_are_counted() -> None:
    """Those after the one moment and up to the other."""
    hourly = Schedule.parse("every 1h", ZoneInfo("UTC"))
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert missed(hourly, noon, noon) == 0
    assert missed(hourly, noon, noon + timedelta(hours=1)) == 1
    assert missed(hourly, noon - SECOND, noon + timedelta(hours=3, minutes=59)) == 4


def test_real_jobs_fire_and_can_be_replaced() -> None:
    """A policy's job runs at its moments; after another schedule was set, only the new policies' jobs run."""
    fired: list[str] = []
    came = threading.Condition()

    def fire(policy: str, passed: int) -> None:
        with came:
            fired.append(policy)
            came.notify_all()

    def seen(policy: str, since: int) -> bool:
        with came:
            return came.wait_for(lambda: policy in fired[since:], timeout=20)

    timetable = Timetable(fire, lambda: datetime.now(UTC), fired.append)
    often = Schedule("every second", ZoneInfo("UTC"), step=SECOND)
    timetable.start()
    try:
        timetable.schedule({"one": often})
        assert seen("one", 0)
        timetable.schedule({"two": often})
        with came:
            here = len(fired)
        assert seen("two", here)
        with came:
            here = len(fired)
        assert seen("two", here)
        assert "one" not in fired[here:]
    finally:
        timetable.close()


def test_moments_passed_over_are_told() -> None:
    """A machine that slept for three moments fires once and says that two were passed over."""
    now, told, came = [datetime(2026, 1, 1, 12, 30, tzinfo=UTC)], [], threading.Event()

    def fire(policy: str, passed: int) -> None:
        told.append(passed)
        came.set()

    timetable = Timetable(fire, lambda: now[0], pytest.fail)
    timetable.schedule({"hourly": Schedule.parse("every 1h", ZoneInfo("UTC"))})
    now[0] += timedelta(hours=3)
    timetable._came("hourly")
    assert told == [2]


def test_a_job_that_crashes_is_told_and_called_again() -> None:
    """A bug in a job is said by its name, and the job's next moment comes all the same."""
    crashes: list[str] = []
    enough = threading.Event()

    def crashed(kind: str) -> None:
        crashes.append(kind)
        if len(crashes) == 2:
            enough.set()

    def fire(policy: str, passed: int) -> None:
        raise KeyError("a bug")

    timetable = Timetable(fire, lambda: datetime.now(UTC), crashed)
    timetable.schedule({"one": Schedule("every second", ZoneInfo("UTC"), step=SECOND)})
    timetable.start()
    try:
        assert enough.wait(30)
    finally:
        timetable.close()
    assert crashes[:2] == ["KeyError", "KeyError"]


def test_a_clock_that_was_put_back_is_planned_by_anew() -> None:
    """A moment that a clock gave which was a year ahead is not waited for."""
    came = threading.Event()
    timetable = Timetable(lambda *_: came.set(), lambda: datetime.now(UTC), pytest.fail)
    timetable.schedule({"often": Schedule("every second", ZoneInfo("UTC"), step=SECOND)})
    timetable.start()
    try:
        timetable._scheduler.modify_job("policy:often", next_run_time=datetime.now(UTC) + timedelta(days=365))
        came.clear()
        assert not came.wait(1.5)
        timetable.replan()
        assert came.wait(30)
    finally:
        timetable.close()
