"""What keeps a bad day small: waves, the circuit breaker, backoff, and a clock that is wrong."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.clock import SystemClock
from rotator.engine.breaker import FAILURES, PAUSE, Breaker
from rotator.errors import Permanent, Temporary
from rotator.model import Outcome, Skip
from rotator.sandbox import Fault, SandboxConfig
from tests.lab import JumpingClock, Lab, lab


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab with twenty tokens, half of them due, one worker."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=20, limits=False), workers=1) as made:
        yield made


def add(bench: Lab, line: str) -> None:
    """Add a key to the policy."""
    text = bench.config_path.read_text()
    bench.config_path.write_text(text.replace("[policies.services.select]", f"{line}\n[policies.services.select]", 1))


def posted(bench: Lab) -> set[str]:
    """The tokens that a new secret was asked for."""
    return {token_id for token_id in bench.sandbox.store.tokens if bench.sandbox.store.posts(token_id)}


def test_a_canary_that_fails_holds_the_next_waves_back(bench: Lab) -> None:
    """The first wave of one token does not settle: the others are not touched, and say why."""
    add(bench, 'waves = [1, "50%", "100%"]')
    bench.sandbox.script("rotate", Fault.RESET_AFTER)
    due = bench.due_ids()
    report = bench.sweep()
    assert len(posted(bench)) == 1
    assert [r.outcome for r in report.results].count(Outcome.UNSETTLED) == 1
    held = [r for r in report.results if "held back" in r.message]
    assert len(held) == len(due) - 1


def test_waves_that_settle_reach_every_token(bench: Lab) -> None:
    """Each wave settles before the next begins; in the end all are done, the canary first."""
    add(bench, 'waves = [1, "50%", "100%"]')
    due = bench.due_ids()
    report = bench.sweep()
    assert {r.token_id for r in report.results if r.outcome is Outcome.SETTLED} == set(due)
    order = [event.token_id for event in bench.events if event.name == "rotation_settled"]
    assert order[0] == next(event.token_id for event in bench.events if event.name == "rotation_intended")


def test_a_failing_token_waits_longer_each_time_until_the_policy_changes(bench: Lab) -> None:
    """A POST that is refused backs off; under a changed policy there is no reason to wait."""
    token_id = bench.due_ids()[0]
    for fault in [Fault.THROTTLE_BARE] * 3:
        bench.sandbox.script("rotate", fault, token_id)
    outcomes = {r.token_id: r.outcome for r in bench.sweep().results}
    assert outcomes[token_id] is Outcome.FAILED
    assert bench.sweep().plan.skipped[Skip.BACKOFF] == 1
    add(bench, 'pause_reason = "the firewall was opened"')
    assert {r.token_id: r.outcome for r in bench.sweep().results} == {token_id: Outcome.SETTLED}


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() -> None:
    """Closed, open, one probe after the pause, closed again by a success or by another kind of failure."""
    clock = JumpingClock()
    breaker = Breaker("vault", clock)
    for _ in range(FAILURES - 1):
        breaker.note(Temporary("down"))
    breaker.admit()
    breaker.note(Temporary("down"))
    with pytest.raises(Temporary, match="vault"):
        breaker.admit()
    clock.jump(PAUSE)
    breaker.admit()
    with pytest.raises(Temporary):
        breaker.admit()
    breaker.note(None)
    breaker.admit()
    for _ in range(FAILURES):
        breaker.note(Permanent("one place"))
    breaker.admit()


def test_a_sink_that_is_down_is_not_asked_for_every_token(bench: Lab) -> None:
    """After a few failures in a row its other tokens fail at once, and nothing is rotated."""
    with bench.app() as app:
        from dataclasses import replace

        from rotator.engine.sweep import sweep

        desk = app.desks[0]
        asked: list[object] = []

        class Down:
            def __getattr__(self, name: str) -> object:
                return getattr(desk.sinks["files"], name)

            def preflight(self, place: object) -> None:
                asked.append(place)
                raise Temporary("the sink is down")

        report = sweep(replace(desk, sinks={"files": Down()}), desk.policies, None, lambda _: True)  # type: ignore[dict-item]
    assert {r.outcome for r in report.results} == {Outcome.FAILED}
    assert len(asked) == FAILURES < len(report.results)
    assert not posted(bench)


def test_a_wrong_clock_ends_no_old_token(tmp_path: Path) -> None:
    """A clock that jumped a month ahead would end every grace: nothing is ended by it."""
    with lab(tmp_path) as bench:
        add(bench, 'strategy = "overlap"\nretire = "after_grace"\ngrace = "20d"')
        due = bench.due_ids()
        bench.sweep()
        assert bench.clock is not None
        ahead = bench.clock.now() + timedelta(days=30)

        class Wrong(SystemClock):
            def now(self) -> object:  # type: ignore[override]
                return ahead

        from rotator.app import opened
        from rotator.engine.sweep import sweep

        with opened(bench.config, "test", [], writing=True, clock=Wrong()) as app:  # type: ignore[arg-type]
            report = sweep(app.desks[0], app.desks[0].policies, None, lambda _: True)
        assert all(token_id in bench.sandbox.store.tokens for token_id in due)
        assert {r.outcome for r in report.results} <= {Outcome.FAILED}
