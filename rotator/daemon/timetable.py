"""Calls us at the moments that `schedule` computes; APScheduler keeps the threads.

APScheduler is told nothing of cron lines or time zones: its trigger asks `Schedule`, so that `plan`, `simulate` and the
daemon agree to the second, also where clocks are moved. A moment that comes late (a machine that slept) is never
dropped silently: it fires once, and the others are counted as missed.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice

from apscheduler.events import EVENT_JOB_ERROR
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from rotator.schedule import Schedule

_POLICY = "policy:"
_MOST_MISSED = 10_000  # counted; a machine that slept for a year need not be exact
_THREADS = 6


class Dates(BaseTrigger):
    """Fires at the moments of a schedule; pure."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first moment after the last one that fired, or after now."""
        return self._schedule.next_after(previous_fire_time or now)


class Timetable:
    """The jobs of one process; at most one run of each at a time.

    Args:
        fire: Called with the name of a policy whose moment has come, and how many earlier ones were passed over.
        now: The wall clock, UTC.
        crashed: Told the name of an error that a job let out; the job is called again at its next moment.
    """

    def __init__(
        self, fire: Callable[[str, int], None], now: Callable[[], datetime], crashed: Callable[[str], None]
    ) -> None:
        self._fire = fire
        self._now = now
        self._schedules: dict[str, Schedule] = {}
        self._fired: dict[str, datetime] = {}
        # Without a grace a moment that comes a second late is dropped; with coalesce, many late ones are one.
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        executors = {"default": ThreadPoolExecutor(_THREADS)}
        self._scheduler = BackgroundScheduler(timezone=UTC, job_defaults=defaults, executors=executors)
        self._scheduler.add_listener(lambda event: crashed(type(event.exception).__name__), EVENT_JOB_ERROR)
        # It would write tracebacks and remarks among our JSON lines; what they say is told as events.
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)

    def start(self) -> None:
        """Begin to fire."""
        self._scheduler.start()

    def close(self) -> None:
        """Fire nothing more, and wait for what runs."""
        if self._scheduler.running:
            self._scheduler.shutdown()

    def wake(self) -> None:
        """Look at the clock now: a machine that slept, or a clock that was put on, is not waited out."""
        if self._scheduler.running:
            self._scheduler.wakeup()

    def replan(self) -> None:
        """Forget the moments that a wrong clock gave, and plan from now."""
        schedules, self._schedules = self._schedules, {}
        self.schedule(schedules)

    def schedule(self, policies: Mapping[str, Schedule]) -> None:
        """Fire for these policies and for no others; one whose schedule is as before keeps its next moment."""
        for name in self._schedules.keys() - policies.keys():
            self._scheduler.remove_job(_POLICY + name)
        now = self._now()
        for name, schedule in policies.items():
            if self._schedules.get(name) != schedule:
                self._fired[name] = now
                self._scheduler.add_job(
                    self._came, Dates(schedule), args=[name], id=_POLICY + name, replace_existing=True
                )
        self._schedules = dict(policies)

    def _came(self, name: str) -> None:
        now, schedule = self._now(), self._schedules.get(name)
        if schedule is None:
            return
        passed = missed(schedule, self._fired[name], now)
        self._fired[name] = now
        self._fire(name, max(0, passed - 1))


def missed(schedule: Schedule, since: datetime, until: datetime) -> int:
    """Return how many moments of a schedule lie after `since` and not after `until`."""
    return sum(1 for _ in islice(schedule.between(since + _MOMENT, until + _MOMENT), _MOST_MISSED))


_MOMENT = timedelta(microseconds=1)
