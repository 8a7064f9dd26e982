"""What goes wrong around one rotation, or at the end, spoils nothing of the others."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rotator.engine.desk import Desk
from rotator.engine.sweep import Report, claimed, recover, sweep
from rotator.errors import Temporary
from rotator.events import EventName
from rotator.model import Outcome
from rotator.sandbox import Fault, SandboxConfig
from tests.lab import Lab, lab


class Sick:
    """A journal one of whose methods is replaced."""

    def __init__(self, journal: Any, **replaced: Any) -> None:
        self._journal = journal
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)


def failing(error: Exception) -> Any:
    """Return a function that raises."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def sick(desk: Desk, **replaced: Any) -> Desk:
    """Return the desk with a journal that is sick."""
    return replace(desk, journal=Sick(desk.journal, **replaced))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab with twelve tokens, two of which lost the answer to their POST."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=12, limits=False)) as made:
        for token_id in made.due_ids()[:2]:
            made.sandbox.script("rotate", Fault.RESET_AFTER, token_id)
        yield made


def test_a_mistake_in_one_recovery_stops_neither_the_others_nor_the_sweep(bench: Lab) -> None:
    """An unexpected error becomes an UNSETTLED result that does not quote it, and is tried again by the next sweep."""
    lost = set(bench.due_ids()[:2])
    bench.sweep()
    with bench.app() as app:
        first = app.desks[0].journal.open_rotations("astro")[0]
        true = app.desks[0].journal.claim

        def claim(rotation_id: str) -> object:
            if rotation_id == first.id:
                raise ValueError("canary")
            return true(rotation_id)

        assert bench.clock is not None
        bench.clock.jump(app.desks[0].settings.late_window)
        results = {result.rotation_id: result for result in recover(sick(app.desks[0], claim=claim))}
    assert len(results) == len(lost)
    bad = results.pop(first.id)
    assert (bad.outcome, "unexpected ValueError" in bad.message, "canary" in bad.message) == (
        Outcome.UNSETTLED, True, False,
    )  # fmt: skip
    assert {result.outcome for result in results.values()} == {Outcome.SETTLED}
    assert first.token_id in {result.token_id for result in bench.sweep().results}


@pytest.mark.parametrize("error", [Temporary("the key is unreadable"), ValueError("canary")])
def test_a_claim_that_cannot_be_used_is_given_back(bench: Lab, error: Exception) -> None:
    """What fails between claiming a rotation and driving it leaves it free for others."""
    bench.sweep()
    with bench.app() as app:
        desk = app.desks[0]
        listed = desk.journal.open_rotations("astro")[0]
        with pytest.raises(type(error)):
            claimed(sick(desk, lineages=failing(error)), listed)
        assert desk.journal.claim(listed.id) is not None


def test_a_journal_that_cannot_be_written_frees_what_recovery_claimed(bench: Lab) -> None:
    """Where even the first write of a recovery fails, the rotation is free for others at once."""
    bench.sweep()
    with bench.app() as app:
        desk = app.desks[0]
        for rotation in desk.journal.open_rotations("astro"):
            assert claimed(desk, rotation)
            desk.journal.release(rotation.id)
        assert bench.clock is not None
        bench.clock.jump(desk.settings.late_window)
        results = recover(sick(desk, write=failing(Temporary("full"))))
        assert {result.outcome for result in results} == {Outcome.UNSETTLED}
        assert all(desk.journal.claim(rotation.id) for rotation in desk.journal.open_rotations("astro"))


def test_erasing_that_fails_is_loud_and_hides_no_result(bench: Lab) -> None:
    """The report of what was rotated comes although the erased seals could not be taken off the disk."""
    with bench.app() as app:
        desk = sick(app.desks[0], erase=failing(Temporary("the journal is full")))
        report = sweep(desk, desk.policies, None, lambda _: True)
    assert any(result.outcome is Outcome.SETTLED for result in report.results)
    assert [e.name for e in bench.events if "erased seals" in e.message] == [EventName.JOURNAL_FAILED]


def test_erasing_that_a_reader_delays_is_said(bench: Lab) -> None:
    """It is no failure, but an event."""
    with bench.app() as app:
        desk = sick(app.desks[0], erase=lambda: False)
        sweep(desk, desk.policies, None, lambda _: True)
    assert EventName.ERASURE_DELAYED in {event.name for event in bench.events}


def test_a_listing_that_fails_hides_no_recovery(bench: Lab) -> None:
    """What was recovered before the listing failed stands in the report that was handed in."""
    bench.sweep()
    assert bench.clock is not None
    report = Report()
    with bench.app() as app:
        bench.clock.jump(app.desks[0].settings.late_window)
        desk = app.desks[0]

        class Mute:
            def __getattr__(self, name: str) -> Any:
                return getattr(desk.provider, name)

            def list(self, _: object) -> object:
                raise Temporary("no connection")

        with pytest.raises(Temporary):
            sweep(replace(desk, provider=Mute()), desk.policies, None, lambda _: True, report)  # type: ignore[arg-type]
    assert {result.outcome for result in report.results} == {Outcome.SETTLED}
