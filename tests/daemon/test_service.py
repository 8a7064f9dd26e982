"""The daemon in this process: what a reload, a stop or a damaged row must not do to it."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.board import Board
from rotator.config import Config, load
from rotator.daemon.service import Service, Watchers
from rotator.daemon.systemd import Systemd
from rotator.errors import Temporary
from rotator.events import Event, EventName
from rotator.ports import Clock
from rotator.sandbox import Fault, Faults, SandboxConfig
from tests.lab import JumpingClock, Lab, lab


@dataclass
class Working:
    """A service and what it told."""

    service: Service
    events: list[Event] = field(default_factory=list)

    def told(self, name: EventName) -> list[Event]:
        """Return what was told of this."""
        return [event for event in list(self.events) if event.name is name]

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something, for as long as a slow machine needs."""
        limit = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < limit, [(event.name, event.message) for event in self.events[-40:]]
            time.sleep(0.02)


@contextmanager
def working(bench: Lab, clock: Clock | None = None) -> Iterator[Working]:
    """Start the service of a lab; no page is served."""
    text = bench.config_path.read_text()
    if "[server]" not in text:
        bench.config_path.write_text(f'{text}\n[server]\nlisten = ""\n')
    board, events = Board(datetime.now(UTC)), list[Event]()
    watchers = Watchers(board, [events.append, board], lambda _: (b"", ""), Systemd({}))
    service = Service(bench.config_path, watchers, clock)
    try:
        service.start()
        yield Working(service, events)
    finally:
        service.close()


def edit(path: Path, old: str, new: str) -> None:
    """Change a config."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def sweeping() -> bool:
    """Whether a sweeper's thread is at work."""
    return any(thread.name == "sweeper-astro" for thread in threading.enumerate())


@pytest.mark.parametrize("error", [Temporary("down"), KeyError("nobody thought of it")])
def test_a_reload_that_failed_for_what_may_pass_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A minute later, though the file has not changed again; also after an error that is not ours."""
    failures = [error]

    def loading(path: Path) -> Config:
        if failures:
            raise failures.pop()
        return load(path)

    clock = JumpingClock()
    with lab(tmp_path, jumping=False) as bench, working(bench, clock) as at_work:
        monkeypatch.setattr("rotator.daemon.service.load", loading)
        edit(bench.config_path, '"90d"', '"91d"')
        at_work.until(lambda: not failures)
        at_work.until(lambda: bool(at_work.told(EventName.CONFIG_REFUSED) or at_work.told(EventName.SWEEP_FAILED)))
        assert at_work.service.config.policies[0].when.max_age == timedelta(days=90)
        clock.jump(timedelta(seconds=61))
        at_work.until(lambda: at_work.service.config.policies[0].when.max_age == timedelta(days=91))


def test_a_row_that_cannot_be_read_does_not_leave_a_reload_half_done(tmp_path: Path) -> None:
    """Whatever cannot be shown after the old configuration has ended, the new one is at work."""
    with lab(tmp_path, jumping=False) as bench, working(bench) as at_work:
        at_work.until(lambda: bool(at_work.told(EventName.SWEEP_FINISHED)))
        with closing(sqlite3.connect(tmp_path / "rotator.db")) as connection, connection:
            row = ("gone", "x", "x", 1, b'{"of": "a newer version"}')
            connection.execute("INSERT INTO lineages VALUES (?, ?, ?, ?, ?)", row)
        edit(bench.config_path, '"90d"', '"91d"')
        at_work.service.reload()
        assert sweeping()
        assert at_work.service.config.policies[0].when.max_age == timedelta(days=91)
        assert any("is not shown" in event.message for event in at_work.told(EventName.SWEEP_FAILED))
        assert not at_work.told(EventName.CONFIG_REFUSED)


def test_a_fact_of_a_newer_version_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    """After a downgrade the last sweeps are looked for among what can be read."""
    with lab(tmp_path, jumping=False) as bench:
        bench.sweep()
        with closing(sqlite3.connect(tmp_path / "rotator.db")) as connection, connection:
            body = b'{"name": "of_a_newer_version", "at": "2026-01-01T00:00:00Z"}'
            connection.execute("INSERT INTO history (token_id, rotation_id, body) VALUES ('', '', ?)", (body,))
        with working(bench):
            assert sweeping()


def test_what_a_reload_cut_short_is_swept_on(tmp_path: Path) -> None:
    """A sweep that a reload ended early is repeated by the new configuration, not only at its next moment."""
    sandbox = SandboxConfig(tokens=12, limits=False, due_fraction=1.0, faults=Faults(latency_s=3.0))
    with lab(tmp_path, sandbox=sandbox, jumping=False, timeout="20s", workers=1) as bench:
        due = bench.due_ids()
        edit(bench.config_path, "max_rotations", 'schedule = "every 300d"\nwaves = ["100%"]\nmax_rotations')
        for token_id in due:
            bench.sandbox.script("rotate", Fault.LATENCY, token_id)
        with working(bench) as at_work:
            at_work.until(lambda: bool(at_work.told(EventName.ROTATION_INTENDED)))
            edit(bench.config_path, '"90d"', '"89d"')
            at_work.service.reload()
            assert len(at_work.told(EventName.ROTATION_INTENDED)) < len(due)
            at_work.until(lambda: len(at_work.told(EventName.ROTATION_SETTLED)) == len(due))
            assert all(bench.sandbox.store.posts(token_id) == 1 for token_id in due)


def test_a_provider_stays_served_after_a_reload(tmp_path: Path) -> None:
    """What its last sweep leaves open while the new configuration is put together is gone on with."""
    with lab(tmp_path, jumping=False) as bench, working(bench) as at_work:
        at_work.until(lambda: bool(at_work.told(EventName.SWEEP_FINISHED)))
        text = bench.config_path.read_text()
        start, end = text.index("[providers.astro]"), text.index("[sinks.files]")
        other = text[start:end].replace("[providers.astro]", "[providers.other]")
        text = text.replace("[policies.services]\n", '[policies.services]\nprovider = "other"\n')
        bench.config_path.write_text(text[:end] + other + text[end:])
        at_work.service.reload()
        assert not at_work.told(EventName.CONFIG_REFUSED)
        assert sweeping()


def test_a_reload_does_not_leave_the_journal_behind(tmp_path: Path) -> None:
    """Another journal is refused with what to do: what the old one holds open would be nobody's."""
    with lab(tmp_path, jumping=False) as bench, working(bench) as at_work:
        at_work.until(lambda: bool(at_work.told(EventName.SWEEP_FINISHED)))
        edit(bench.config_path, "[sinks.files]", '[journal]\nurl = "sqlite:///new.db"\n\n[sinks.files]')
        at_work.service.reload()
        assert "restart" in at_work.told(EventName.CONFIG_REFUSED)[0].message
        assert not (tmp_path / "new.db").exists()
        assert sweeping()


@pytest.mark.parametrize("remembered", [True, False])
def test_a_reload_does_not_change_the_organization(tmp_path: Path, remembered: bool) -> None:
    """The old one stays in force, also while nothing is remembered: its sweep may be about to remember something."""
    with lab(tmp_path, jumping=False) as bench:
        if not remembered:
            edit(bench.config_path, 'names = ["svc-*"]', 'names = ["nobody"]')
        with working(bench) as at_work:
            at_work.until(lambda: bool(at_work.told(EventName.SWEEP_FINISHED)))
            edit(bench.config_path, bench.sandbox.organization_id, "clother")
            at_work.service.reload()
            said = at_work.told(EventName.CONFIG_REFUSED)[0].message
            assert "providers.astro.organization_id" in said
            assert "restart" in said
            assert sweeping()
            assert at_work.service.config.providers["astro"].organization_id == bench.sandbox.organization_id


def test_a_clock_that_is_put_back_is_planned_by_anew(tmp_path: Path) -> None:
    """A daemon that started in the wrong year sweeps by the right one, without a restart."""
    clock = JumpingClock()
    clock.jump(timedelta(days=365))
    with lab(tmp_path, jumping=False) as bench, working(bench, clock) as at_work:
        clock.jump(timedelta(days=-365))
        soon = datetime.now(UTC) + timedelta(hours=1, minutes=1)

        def next_at() -> datetime | None:
            return at_work.service._board.snapshot(datetime.now(UTC)).policies[0].next_at

        at_work.until(lambda: (next_at() or soon) < soon)
