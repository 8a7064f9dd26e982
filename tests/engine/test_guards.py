"""What keeps a bad day small: waves, the circuit breaker, backoff, and a clock that is wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.clock import SystemClock
from rotator.engine.breaker import FAILURES, PAUSE, Breaker
from rotator.engine.sweep import claimed, recover
from rotator.errors import NotFound, OutcomeUnknown, Permanent, Temporary
from rotator.model import Outcome, Rotation, Skip, State
from rotator.ports import Write
from rotator.sandbox import Fault, SandboxConfig
from tests.engine.test_hard_cases import asked, lineage, lives, refusing, spoilt, sweep, target
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


class Adrift(JumpingClock):
    """A clock that may be wrong."""

    def __init__(self, true: JumpingClock) -> None:
        self._true = true
        self.off = timedelta()

    def now(self) -> datetime:
        """Return what it takes the time for."""
        return self._true.now() + self.off

    def sleep(self, duration: timedelta) -> None:
        """Time passes, however wrong the clock is."""
        self._true.sleep(duration)

    jump = sleep


class Death(BaseException):
    """The process ends."""


@pytest.fixture
def adrift(tmp_path: Path) -> Iterator[tuple[Lab, Adrift]]:
    """A lab with one due token, on a machine whose clock may be wrong."""
    with lab(tmp_path) as bench:
        for token_id in set(bench.sandbox.store.tokens) - {bench.due_ids()[0], bench.sandbox.store.owner_id}:
            bench.sandbox.store.delete(token_id)
        assert bench.clock is not None
        bench.clock = clock = Adrift(bench.clock)
        yield bench, clock


def opened_rotation(bench: Lab) -> Rotation:
    """The one open rotation."""
    with bench.app(writing=False) as app:
        [rotation] = app.reader.all_open_rotations()
    return rotation


def lost(real: Callable[..., Any], ref: Any) -> Any:
    """A rotate call that takes effect and whose answer is lost."""
    real(ref)
    raise OutcomeUnknown("timed out")


WRONG = [timedelta(days=45), timedelta(days=-45)]


@pytest.mark.parametrize("off", WRONG)
def test_a_lost_secret_is_made_anew_only_by_a_clock_that_is_right(adrift: tuple[Lab, Adrift], off: timedelta) -> None:
    """No call by a clock that is wrong, and no moment noted by it holds back what the right one heals."""
    bench, clock = adrift
    api_down = {"rotate": lost, "authenticate": refusing(Temporary("down"))}
    with spoilt(bench, provider={**api_down, "get": _failing_after(1)}) as (_, desk):
        sweep(desk)
    assert opened_rotation(bench).state is State.IN_DOUBT
    clock.off = off
    for _ in range(2):
        [result] = bench.sweep().results
        assert (result.outcome, "max_clock_skew" in result.message) == (Outcome.UNSETTLED, True)
        clock.jump(timedelta(minutes=10))
    assert (bench.sandbox.store.posts(target(bench)), lineage(bench, target(bench)).minted_at) == (1, None)
    clock.off = timedelta()
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert lives(bench, target(bench))


def _failing_after(count: int) -> Callable[..., Any]:
    done: list[object] = []

    def get(real: Callable[..., Any], ref: Any) -> Any:
        done.append(ref)
        if len(done) > count:
            raise Temporary("the API is down")
        return real(ref)

    return get


@pytest.mark.parametrize("off", WRONG)
def test_a_doubt_begins_by_a_clock_that_is_right(adrift: tuple[Lab, Adrift], off: timedelta) -> None:
    """The process died at its call: a wrong clock would make the doubt last for weeks, or be over at once.

    Nothing is held on to meanwhile, also where a person asked.
    """
    bench, clock = adrift
    with spoilt(bench, provider={"rotate": refusing(Death())}) as (_, desk), pytest.raises(Death):  # type: ignore[arg-type]
        sweep(desk)
    clock.off = off
    with bench.app() as app:
        assert {r.outcome for r in recover(app.desks[0])} == {Outcome.UNSETTLED}
        assert asked(app, app.desks[0], target(bench)).outcome is Outcome.FAILED
        attempt = claimed(app.desks[0], opened_rotation(bench))
        assert attempt is not None
        app.desks[0].journal.release(attempt.rotation.id)
    assert (opened_rotation(bench).state, opened_rotation(bench).doubted_at) == (State.INTENDED, None)
    clock.off = timedelta()
    bench.sweep()
    assert opened_rotation(bench).state is State.IN_DOUBT
    clock.jump(timedelta(minutes=3))
    bench.sweep()
    assert lives(bench, target(bench))


def test_a_call_in_doubt_is_not_taken_for_over_by_a_wrong_clock(adrift: tuple[Lab, Adrift]) -> None:
    """A clock a month ahead says that the late window is long past: neither is the call given up, nor its token."""
    bench, clock = adrift
    with spoilt(bench, provider={"rotate": refusing(OutcomeUnknown("timed out"))}) as (_, desk):
        sweep(desk)
    clock.off = timedelta(days=30)
    bench.sweep()
    assert opened_rotation(bench).state is State.IN_DOUBT

    def unknown(real: Callable[..., Any], ref: Any) -> Any:
        real(ref)
        raise NotFound("404")

    for _ in range(2):
        with spoilt(bench, provider={"get": unknown}) as (_, desk):
            recover(desk)
        clock.jump(timedelta(minutes=3))
    assert opened_rotation(bench).state is State.IN_DOUBT
    bench.sandbox.store.rotate(target(bench), "late")  # the call, at last
    clock.off = timedelta()
    bench.sweep()
    assert lives(bench, target(bench))


def test_moments_that_a_wrong_clock_has_noted_hold_nothing_back(adrift: tuple[Lab, Adrift]) -> None:
    """A journal of a clock that was a month ahead: the doubt is counted from now on, not from then."""
    bench, clock = adrift
    with spoilt(bench, provider={"rotate": refusing(OutcomeUnknown("timed out"))}) as (_, desk):
        sweep(desk)
        rotation = opened_rotation(bench)
        ahead = clock.now() + timedelta(days=30)
        assert claimed(desk, rotation)
        desk.journal.write(Write(rotation=replace(rotation, doubted_at=ahead, next_at=ahead)))
    bench.sweep()
    assert opened_rotation(bench).state is State.IN_DOUBT
    clock.jump(timedelta(minutes=3))
    bench.sweep()
    assert lives(bench, target(bench))
