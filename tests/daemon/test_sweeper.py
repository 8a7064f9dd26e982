"""One provider's sweeps, scheduled and not."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from rotator.app import App
from rotator.board import Board
from rotator.daemon.sweeper import Sweeper, by_expiry
from rotator.events import EventName
from rotator.model import Place
from rotator.ports import Sink
from rotator.sandbox import Fault
from tests.lab import Lab, lab, write_secret

MINUTE = timedelta(minutes=1)


@dataclass
class Working:
    """A sweeper at work on a lab."""

    bench: Lab
    app: App
    board: Board
    sweeper: Sweeper

    def told(self, name: EventName) -> int:
        """How often something was told."""
        return sum(event.name is name for event in self.bench.events)

    def later(self, by: timedelta) -> None:
        """Jump, and let the sweeper look at what is to be done."""
        assert self.bench.clock is not None
        until(lambda: self.sweeper.is_idle)
        self.bench.clock.jump(by)
        self.sweeper.tend()


@contextmanager
def working(bench: Lab) -> Iterator[Working]:
    """Start a sweeper; what it did at its start is over."""
    with bench.app() as app:
        board = Board(app.clock.now())
        board.configure(app.config.policies, {"astro": "astro"}, {"files": "file"}, app.clock.now())
        sweeper = Sweeper(app.desks[0], lambda: app.reader.every_lineage("astro"), board)
        sweeper.start()
        try:
            until(lambda: sweeper.is_idle)
            yield Working(bench, app, board, sweeper)
        finally:
            sweeper.end()
            sweeper.join()


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something, for as long as a slow machine needs."""
    limit = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.02)


def test_starting_rotates_nothing(tmp_path: Path) -> None:
    """At its start a sweeper looks and recovers; tokens that are old wait for the schedule."""
    with lab(tmp_path) as bench, working(bench) as at_work:
        assert at_work.board.snapshot(datetime.now(UTC)).counts["services", "due"] == len(bench.due_ids()) > 0
        at_work.later(timedelta(minutes=20))
        until(lambda: at_work.board.snapshot(at_work.app.clock.now()).looked_at["astro"] > datetime.now(UTC) + MINUTE)
        assert not at_work.told(EventName.ROTATION_INTENDED)


def test_a_scheduled_sweep_rotates(tmp_path: Path) -> None:
    """What is due is settled, and the board shows it."""
    with lab(tmp_path) as bench:
        due = len(bench.due_ids())
        with working(bench) as at_work:
            assert at_work.sweeper.schedule("services")
            until(lambda: at_work.told(EventName.SWEEP_FINISHED) == 1)
            until(lambda: ("services", "due") not in at_work.board.snapshot(at_work.app.clock.now()).counts)
            assert at_work.told(EventName.ROTATION_SETTLED) == due


def test_one_sweep_of_a_policy_at_a_time(tmp_path: Path) -> None:
    """While one waits or is under way, another is refused: the caller counts it as missed."""
    held, entered = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, sink: Sink) -> None:
            self._sink = sink

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sink, name)

        def preflight(self, place: Place) -> None:
            entered.set()
            held.wait(60)
            self._sink.preflight(place)

    with lab(tmp_path) as bench:
        bench.wraps["files"] = lambda sink: cast("Sink", Slow(sink))
        with working(bench) as at_work:
            assert at_work.sweeper.schedule("services")
            assert not at_work.sweeper.schedule("services")
            assert entered.wait(30)
            assert not at_work.sweeper.schedule("services")
            held.set()
            until(lambda: at_work.told(EventName.SWEEP_FINISHED) == 1)
            until(lambda: at_work.sweeper.schedule("services"))


def test_what_expires_does_not_wait_for_its_schedule(tmp_path: Path) -> None:
    """A token whose expiry makes it due is rotated at that moment; those that are only old are not."""
    with lab(tmp_path) as bench:
        text = bench.config_path.read_text()
        bench.config_path.write_text(
            text.replace('max_age = "90d"', 'max_age = "90d"\nbefore_expiry = "6h"\nemergency = "1h"')
        )
        assert bench.clock is not None
        soon = next(t for t in bench.sandbox.store.tokens.values() if t.id not in bench.due_ids() and "svc-" in t.name)
        soon.expiry_days, soon.end_at = 30, bench.clock.now() + timedelta(hours=12)
        with working(bench) as at_work:
            at_work.later(timedelta(hours=1))
            assert not at_work.told(EventName.ROTATION_INTENDED)
            at_work.later(timedelta(hours=6))
            until(lambda: at_work.told(EventName.SWEEP_FINISHED) == 1)
            assert bench.sandbox.store.posts(soon.id) == 1
            assert [bench.sandbox.store.posts(old) for old in bench.due_ids()] == [0] * len(bench.due_ids())


def test_unsettled_deliveries_are_retried_between_sweeps(tmp_path: Path) -> None:
    """A folder that comes back is written to without another sweep, and without another POST."""
    with lab(tmp_path) as bench:
        token_id = bench.due_ids()[0]
        with working(bench) as at_work:
            folder = tmp_path / "secrets"
            bench.sandbox.script("rotate", Fault.RESET_AFTER, token_id)
            assert at_work.sweeper.schedule("services")
            until(lambda: at_work.told(EventName.SWEEP_FINISHED) == 1)
            assert at_work.told(EventName.ROTATION_IN_DOUBT) == 1
            for _ in range(4):
                at_work.later(5 * MINUTE)
            until(lambda: bench.sandbox.store.is_alive((folder / token_id).read_text()))
            until(lambda: at_work.sweeper.is_idle)
            assert not at_work.app.reader.all_open_rotations()


def test_a_sweep_that_failed_is_tried_again(tmp_path: Path) -> None:
    """The API is down at three; a minute and more later everything is settled, before the next moment."""
    with lab(tmp_path) as bench, working(bench) as at_work:
        for _ in range(8):
            bench.sandbox.script("list", Fault.ERROR_500)
        assert at_work.sweeper.schedule("services")
        until(lambda: at_work.told(EventName.SWEEP_FAILED) >= 1)
        for _ in range(6):
            at_work.later(10 * MINUTE)
        until(lambda: at_work.sweeper.is_idle)
        assert at_work.told(EventName.ROTATION_SETTLED) == 3


def test_a_dead_credential_ends_a_sweep_and_not_the_daemon(tmp_path: Path) -> None:
    """Once the credential is replaced, the next sweep works with it."""
    with lab(tmp_path) as bench:
        good = (tmp_path / "credential").read_text()
        with working(bench) as at_work:
            write_secret(tmp_path / "credential", bench.sandbox.store.secret_of(bench.due_ids()[0]) + "x")
            assert at_work.sweeper.schedule("services")
            until(lambda: at_work.told(EventName.SWEEP_FAILED) >= 1)
            write_secret(tmp_path / "credential", good)
            until(lambda: at_work.sweeper.schedule("services"))
            until(lambda: at_work.told(EventName.ROTATION_SETTLED) == 3)


def test_by_expiry_keeps_everything_but_age(tmp_path: Path) -> None:
    """The narrowed policies differ in `max_age` alone, so that backoff and ownership mean the same."""
    with lab(tmp_path) as bench, bench.app() as app:
        wide, narrow = app.desks[0].policies[0], by_expiry(app.desks[0]).policies[0]
        assert narrow.when.max_age is None
        assert replace(narrow, when=wide.when) == wide
