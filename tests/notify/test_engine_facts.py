"""What the engine really journals is what people are told: end to end, with faults of the sandbox and the sinks."""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.engine.sweep import sweep
from rotator.errors import CredentialRejected, Temporary
from rotator.events import Event, EventName
from rotator.model import Place
from rotator.notify.rounds import Rounds
from rotator.ports import Sink
from rotator.sandbox import SandboxConfig
from tests.lab import lab, write_secret
from tests.notify.bench import CANARY, add_channel, quarantine, tell, the
from tests.servers.listener import listening


class Down:
    """A sink that can write nothing while it is down."""

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self.name = inner.name
        self.is_down = True

    def preflight(self, place: Place) -> None:
        if self.is_down:
            raise Temporary("the volume is not mounted")
        self._inner.preflight(place)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_a_sink_that_goes_down_and_comes_back(tmp_path: Path) -> None:
    """A sink whose breaker opens is told once, and once that it works again."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=40, limits=False)) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        assert len(bench.due_ids()) > 5
        made: list[Down] = []
        bench.wraps["files"] = lambda sink: made.append(Down(sink)) or made[-1]  # type: ignore[func-returns-value,return-value]
        with bench.app() as app:
            for _ in range(2):
                sweep(app.desks[0], app.desks[0].policies, None, lambda _: True)
                tell(app)
            assert [one["title"] for one in listener.seen] == ["rotator: 1 a sink is down"]
            assert "the volume is not mounted" in listener.messages[0]
            made[-1].is_down = False
            app.clock.sleep(timedelta(hours=2))
            sweep(app.desks[0], app.desks[0].policies, None, lambda _: True)
            tell(app)
    assert listener.messages[1:] == ["resolved: a sink is down: files"]


def test_a_brake_that_refuses_and_is_lifted(tmp_path: Path) -> None:
    """A refused plan is told once, however many sweeps it is refused in, and resolved when a person accepts it."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=40, limits=False), brake=1) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        for _ in range(2):
            report = bench.sweep()
            with bench.app() as app:
                tell(app)
        (message,) = listener.messages
        assert message.startswith("held back by the brake: services")
        bench.sweep(accept=report.plan.id)
        with bench.app() as app:
            tell(app)
    assert listener.messages[1:] == ["resolved: held back by the brake: services"]


def test_a_dead_credential(tmp_path: Path) -> None:
    """A credential of ours that is rejected is told once, and once that a living one was put in its place."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        alive = (tmp_path / "credential").read_text()
        write_secret(tmp_path / "credential", alive[:-4] + "AAAA")
        for _ in range(2):
            with bench.app() as app:
                with pytest.raises(CredentialRejected):
                    sweep(app.desks[0], app.desks[0].policies, None, lambda _: True)
                tell(app)
        (message,) = listener.messages
        assert message.startswith("rotator's own credential is dead: astro")
        write_secret(tmp_path / "credential", alive)
        assert bench.clock is not None
        bench.clock.jump(timedelta(minutes=10))
        bench.sweep()
        with bench.app() as app:
            tell(app)
    assert listener.messages[1:] == ["resolved: rotator's own credential is dead: astro"]
    assert [event.name for event in bench.events].count(EventName.CREDENTIAL_REJECTED) == 2


def test_without_a_journal_it_is_cried_once(tmp_path: Path) -> None:
    """That the journal cannot be written is told without it, once a process, and again when it works: told twice."""
    with lab(tmp_path) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            app.emit(Event(name=EventName.JOURNAL_FAILED, at=app.clock.now(), message="no space is left"))
            with app.desks[0].journal.hold("", "notifications"):  # as good as one that refuses every write
                for _ in range(2):
                    with pytest.raises(Temporary):
                        tell(app)
            assert [message.split(":")[0] for message in listener.messages] == ["the journal cannot be written"]
            tell(app)
            tell(app)
    assert len(listener.seen) == 2


def test_rounds_tell_by_themselves(tmp_path: Path) -> None:
    """A process that stays tells in a thread of its own, and ends at once although a service hangs."""
    with lab(tmp_path, jumping=False) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        with bench.app() as app:
            rounds = Rounds(the(app), lambda _: None, app.clock, app.emit)
            quarantine(app, "id-1")
            rounds.start()
            deadline = time.monotonic() + 30
            while not listener.seen and time.monotonic() < deadline:
                time.sleep(0.02)
            assert listener.seen
            rounds.end()
            rounds.join(30)
            listener.gate.clear()
            hanging = Rounds(the(app), lambda _: None, app.clock, app.emit)
            quarantine(app, "id-2")
            hanging.start()
            began = time.monotonic()
            hanging.end()
            hanging.join(0.2)
            assert time.monotonic() - began < 5
            listener.gate.set()
            hanging.join(30)


def test_check_validates_the_channels(tmp_path: Path) -> None:
    """`check --online` refuses a URL that Apprise does not know, without showing it or contacting anybody."""
    with lab(tmp_path, jumping=False) as bench, listening() as listener:
        add_channel(bench, listener)
        line = [sys.executable, "-m", "rotator", "check", "--online", "--config", str(bench.config_path)]
        good = subprocess.run(line, capture_output=True, text=True, check=False)
        write_secret(tmp_path / "pager", f"nonsense://{CANARY}")
        bad = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "notifications.oncall: its URL can be used" in good.stdout
    assert good.returncode == 0, good.stderr
    assert bad.returncode == 2
    assert "no URL that Apprise knows" in bad.stdout
    assert CANARY not in good.stdout + good.stderr + bad.stdout + bad.stderr
    assert listener.seen == []
