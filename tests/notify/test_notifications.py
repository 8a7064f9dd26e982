"""Notifications reach a real receiver through Apprise: on transitions, grouped, durable, and without a secret."""

import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from rotator.board import Snapshot, TokenRow
from rotator.errors import ConfigError, Temporary
from rotator.events import Event, EventName
from rotator.model import Outcome
from tests.lab import Lab, lab, write_secret
from tests.notify.bench import CANARY, add, add_channel, quarantine, release, tell, the
from tests.servers.listener import listening

MINUTES = [timedelta(minutes=count) for count in range(10)]


def events_of(bench: Lab, name: EventName) -> list[Event]:
    """Return what was emitted under a name."""
    return [event for event in bench.events if event.name is name]


def test_a_storm_is_one_message(tmp_path: Path) -> None:
    """Two hundred quarantined tokens are one message with their number and the first few names, after group_for."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener)
        with bench.app() as app:
            for number in range(200):
                quarantine(app, f"id-{number:03}", f"svc-{number:03}")
            began = app.clock.now()
            due = tell(app)
            assert listener.seen == []
            assert due is not None
            assert timedelta(minutes=4) < due - began <= MINUTES[5]
            assert tell(app, due) is None
    (said,) = listener.seen
    assert said["title"] == "rotator: 200 quarantined"
    assert said["type"] == "failure"
    assert said["message"].startswith("quarantined (200): svc-000 (id-000, policy services), svc-001")
    assert "and 195 more" in said["message"]
    assert "rotator release id-000" in said["message"]
    assert len(said["message"]) < 1000


def test_what_stays_is_told_once_and_its_end_once(tmp_path: Path) -> None:
    """A token that stays quarantined is quiet, also for the next process; its release is told once."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            quarantine(app, "id-1")
            for _ in range(3):
                tell(app)
        with bench.app() as app:
            tell(app)
            tell(app, app.clock.now() + timedelta(days=9))
            assert len(listener.seen) == 1
            release(app, "id-1")
            for _ in range(3):
                tell(app)
    assert [one["type"] for one in listener.seen] == ["failure", "success"]
    assert listener.messages[1] == "resolved: quarantined: svc-name (id-1, policy services)"


def test_what_passes_within_its_group_is_not_told(tmp_path: Path) -> None:
    """A quarantine that is lifted before the message was due never was news."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener)
        with bench.app() as app:
            quarantine(app, "id-1")
            tell(app)
            release(app, "id-1")
            assert tell(app, app.clock.now() + timedelta(hours=1)) is None
    assert listener.seen == []


def test_only_chosen_topics_are_told(tmp_path: Path) -> None:
    """`on` is what a channel is told of, and nothing else."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, on='["lost"]', group_for='"0s"')
        with bench.app() as app:
            quarantine(app, "id-1")
            assert tell(app) is None
    assert listener.seen == []


def test_a_channel_that_is_down_is_tried_again_and_given_up(tmp_path: Path) -> None:
    """Failures back off, everything that happens meanwhile joins the same message, and a day later it is given up."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        listener.status = 500
        with bench.app() as app:
            quarantine(app, "id-1")
            first = tell(app)
            quarantine(app, "id-2")
            assert first is not None
            assert first - app.clock.now() > timedelta(seconds=20)
            tell(app)
            assert len(listener.seen) == 1
            second = tell(app, first)
            assert second is not None
            assert second - first == timedelta(minutes=1)
            assert listener.seen[1]["title"] == "rotator: 2 quarantined"
            assert tell(app, app.clock.now() + timedelta(hours=25)) is None
            listener.status = 200
            assert tell(app, app.clock.now() + timedelta(hours=27)) is None
    assert len(listener.seen) == 3
    failed = events_of(bench, EventName.NOTIFICATION_FAILED)
    assert [event.channel for event in failed] == ["oncall"] * 3
    assert "2 changes are given up" in failed[-1].message


def test_a_hanging_channel_holds_nothing_up(tmp_path: Path) -> None:
    """A pass ends in its own time while a service hangs, and its late answer still counts: nothing is told twice."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        listener.gate.clear()
        with bench.app() as app:
            quarantine(app, "id-1")
            assert tell(app, patience_s=0.2) is not None
            assert events_of(bench, EventName.NOTIFICATION_SENT) == []
            listener.gate.set()
            tell(app, patience_s=20)
            tell(app)
    assert len(listener.seen) == 1
    assert len(events_of(bench, EventName.NOTIFICATION_SENT)) == 1


def test_facts_from_before_a_channel_are_not_its_news(tmp_path: Path) -> None:
    """Who is configured later is told of what happens from then on; one that is taken away is forgotten."""
    with lab(tmp_path) as bench, listening() as listener:
        plain = bench.config_path.read_text()
        with bench.app() as app:
            quarantine(app, "id-1")
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            tell(app)
            quarantine(app, "id-2")
            tell(app)
            assert listener.seen[0]["title"] == "rotator: 1 quarantined"
        bench.config_path.write_text(plain)
        add(bench, "[notifications.other]", url='"file:pager"', group_for='"0s"')
        with bench.app() as app:
            release(app, "id-2")
            tell(app)
    assert len(listener.seen) == 1


def test_a_second_process_does_not_tell_the_same(tmp_path: Path) -> None:
    """While one process tells, another one's pass is refused, and afterwards finds nothing left."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as one, bench.app() as other:
            quarantine(one, "id-1")
            with one.desks[0].journal.hold("", "notifications"), pytest.raises(Temporary):
                tell(other)
            tell(one)
            tell(other)
    assert len(listener.seen) == 1


def test_names_can_do_nothing(tmp_path: Path) -> None:
    """A name can neither forge a line nor mention a room, and what the service gets holds no secret of ours."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            quarantine(app, "id-1", "@here\nresolved: [all](http://evil) <!channel>\x1b[31m", "why\u202e @everyone")
            tell(app)
    (said,) = listener.messages
    assert len(said.splitlines()) == 3
    assert not set("@<>[]\x1b\u202e") & set(said)


def test_the_url_is_shown_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: object) -> None:
    """Neither log (at DEBUG), event, error nor repr shows the URL: not when it is sent, fails, or cannot be used."""
    caplog.set_level(logging.DEBUG)
    for name in ("apprise", "urllib3", "requests"):
        caplog.set_level(logging.DEBUG, name)
    said: list[object] = []
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            said.append(repr(vars(the(app))))
            for number, status in enumerate((200, 404, 500)):
                listener.status = status
                quarantine(app, f"id-{number}")
                tell(app, app.clock.now() + timedelta(hours=number))
            for url in (f"nonsense://{CANARY}@host/{CANARY}", f"no url {CANARY}", f"json://{CANARY}:@127.0.0.1:1/x"):
                write_secret(bench.folder / "pager", url)
                quarantine(app, f"id-{url}"[:9])
                tell(app, app.clock.now() + timedelta(hours=20), flush=True)
            write_secret(bench.folder / "pager", f"nonsense://{CANARY}@host/{CANARY}")
            for channel in the(app)._channels.values():
                with pytest.raises(ConfigError) as raised:
                    channel.validate()
                said.append(raised.value)
                said.append(repr(channel))
        text = repr(said) + repr(bench.events) + caplog.text + bench.config_path.read_text()
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "pager":
            text += path.read_bytes().decode(errors="replace")
    assert CANARY in str(listener.paths)  # it did travel
    assert CANARY not in text
    assert len(events_of(bench, EventName.NOTIFICATION_FAILED)) >= 4


def test_a_killed_process_forgets_nothing(tmp_path: Path) -> None:
    """What was journalled before a kill -9 is told by the next process, once."""
    with lab(tmp_path, jumping=False) as bench, listening() as listener:
        add_channel(bench, listener)
        script = (
            "import os, signal, sys, pathlib\n"
            "from rotator.app import opened\n"
            "from rotator.config import load\n"
            "from tests.notify.bench import quarantine, tell\n"
            "with opened(load(pathlib.Path(sys.argv[1])), 'test', [], writing=True) as app:\n"
            "    quarantine(app, 'id-1'); tell(app); quarantine(app, 'id-2')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        run = subprocess.run([sys.executable, "-c", script, str(bench.config_path)], cwd=os.getcwd(), check=False)
        assert run.returncode == -signal.SIGKILL
        assert listener.seen == []
        with bench.app() as app:
            tell(app, app.clock.now() + timedelta(minutes=6))
            tell(app, app.clock.now() + timedelta(minutes=16))
    assert [one["title"] for one in listener.seen] == ["rotator: 2 quarantined"]


def test_trouble_with_the_audit_is_heard(tmp_path: Path) -> None:
    """What is in no history is heard as an event, told, and resolved by the first sweep without it."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            app.emit(Event(name=EventName.AUDIT_FAILED, at=app.clock.now(), message="the disk is full"))
            tell(app)
            app.emit(Event(name=EventName.SWEEP_STARTED, at=app.clock.now()))
            app.emit(Event(name=EventName.SWEEP_FINISHED, at=app.clock.now()))
            tell(app)
    assert [one["type"] for one in listener.seen] == ["warning", "success"]
    assert "the disk is full" in listener.messages[0]


def row(expires_in: timedelta, now: datetime, **changes: object) -> TokenRow:
    """Return a paused token."""
    made = TokenRow("astro", "services", "id-1", "svc-1", "workspace", "paused", "paused", "paused by a person")
    return replace(made, expires_at=now + expires_in, **changes)  # type: ignore[arg-type]


def test_the_ladder_before_expiry(tmp_path: Path) -> None:
    """A token that may not be rotated is told at 30, 14 and 2 days, each once, and when it has expired."""
    told: list[tuple[int, str]] = []
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            start = app.clock.now()
            end = start + timedelta(days=40)
            for day in range(42):
                now = start + timedelta(days=day)
                for _ in range(2):
                    shown = Snapshot(now, start, (row(end - now, now),), {("services", "paused"): 1}, {"astro": now})
                    the(app).pass_once(shown, now)
                if len(listener.seen) > len(told):
                    told.append((day, listener.messages[-1].split(":")[0]))
            later = start + timedelta(days=50)
            healed = row(timedelta(days=90), later, state="fresh", last_rotated_at=later)
            the(app).pass_once(Snapshot(later, start, (healed,), {("services", "fresh"): 1}, {"astro": later}), later)
    expiring = "will expire, and rotator will not rotate it"
    assert told == [(10, expiring), (26, expiring), (38, expiring), (40, "expired")]
    assert listener.messages[4:] == ["resolved: expired: svc-1 (id-1, policy services)"]


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({"state": "quarantined"}, True),
        ({"state": "skipped", "reason": "own_credential"}, True),
        ({"state": "fresh", "reason": "not_due"}, True),  # no condition comes before its expiry
        ({"state": "fresh", "reason": "not_due", "wake_at": timedelta(days=1)}, False),
        ({"state": "fresh", "reason": "not_due", "due_at": timedelta(days=1)}, False),
        ({"state": "due", "reason": "max_age"}, False),
        ({"state": "retiring", "reason": "in_grace"}, False),
    ],
)
def test_whom_the_ladder_is_for(tmp_path: Path, changes: dict[str, object], is_told: bool) -> None:
    """Only tokens that nothing will rotate before they expire are on the ladder."""
    from rotator.notify.ladder import findings

    now = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    moments = {key: now + value if isinstance(value, timedelta) else value for key, value in changes.items()}
    shown = Snapshot(now, now, (row(timedelta(days=13), now, **moments),))
    assert bool(list(findings(shown))) is is_told


def test_a_token_that_is_not_shown_is_not_saved(tmp_path: Path) -> None:
    """Where a snapshot shows only the most pressing tokens, one that is not among them stays on its rung."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            now = app.clock.now()
            counts = {("services", "paused"): 1}
            shown = Snapshot(now, now, (row(timedelta(days=9), now),), counts, {"astro": now})
            the(app).pass_once(shown, now)
            few = replace(shown, tokens=(), counts={("services", "paused"): 2000})
            the(app).pass_once(few, now)
            assert len(listener.seen) == 1
            the(app).pass_once(replace(shown, tokens=(), counts={}), now)
    assert listener.messages[1].startswith("resolved: will expire")


def test_a_sweep_that_failed_resolves_nothing() -> None:
    """Only a sweep that went through shows that a refused plan or a dead credential is past."""
    from rotator.notify.facts import moves

    now = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    ended = Event(name=EventName.SWEEP_FINISHED, at=now, provider="astro", policy="services", duration_s=3)
    assert len(list(moves([replace(ended, outcome=Outcome.SETTLED)], lambda *_: {}))) == 3
    assert list(moves([replace(ended, outcome=Outcome.FAILED)], lambda *_: {})) == []
