"""Two tokens whose secrets would go to one place: whoever begins first has it, from the intent on."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.engine.desk import Desk
from rotator.engine.sweep import Report
from rotator.engine.sweep import sweep as run_sweep
from rotator.errors import OutcomeUnknown, Permanent
from rotator.model import Outcome, Skip
from rotator.sandbox.store import Draft, Record
from tests.engine.test_drift import forget
from tests.engine.test_hard_cases import DAY, Wrapped, down, jump, refusing, spoilt, sweep
from tests.lab import Lab, lab

OTHERS = """
[policies.others]
max_percent = 100
select.scopes = ["organization"]
select.names = ["other-*"]
when.max_age = "90d"
[[policies.others.deliver]]
sink = "files"
path = "shared"
"""


def made(bench: Lab, name: str) -> Record:
    """A token that is long due."""
    store = bench.sandbox.store
    token = store.create(Draft(name, "ORGANIZATION", store.organization_id, "ORGANIZATION_MEMBER"), store.owner_id)
    token.created_at = token.start_at = store.now() - 200 * DAY
    return token


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab with no token but ours, and two policies that deliver to the same file."""
    with lab(tmp_path) as made:
        for token_id in set(made.sandbox.store.tokens) - {made.sandbox.store.owner_id}:
            made.sandbox.store.delete(token_id)
        text = made.config_path.read_text().replace('"{token_id}"', '"shared"')
        made.config_path.write_text(text + OTHERS)
        yield made


def of(bench: Lab) -> str | None:
    """Whose live secret the shared file holds."""
    return bench.sandbox.store.authenticates_as(bench.delivered("shared") or "")


def test_a_place_belongs_to_a_rotation_in_doubt(bench: Lab) -> None:
    """Its call may still take effect and its secret then arrive: nobody else gets the same file meanwhile."""
    first = made(bench, "svc-first")
    with spoilt(bench, provider={"rotate": refusing(OutcomeUnknown("no answer"))}) as (_, desk):
        assert [r.outcome for r in sweep(desk).results] == [Outcome.UNSETTLED]
    other = made(bench, "other-late")
    jump(bench, timedelta(seconds=30))
    report = bench.sweep()
    assert report.plan.skipped == {Skip.BAD_PATH: 1}
    bench.sandbox.store.rotate(first.id, "late")
    jump(bench)
    bench.sweep()
    assert of(bench) == first.id
    assert bench.sandbox.store.posts(other.id) == 0


def test_a_place_belongs_to_a_rotation_that_waits_for_another_sink(bench: Lab) -> None:
    """One of its sinks is down: what the other already holds is not for anybody else to write over."""
    text = bench.config_path.read_text()
    second = '\n[[policies.services.deliver]]\nsink = "second"\n[sinks.second]\ntype = "file"\ndirectory = "second"\n'
    bench.config_path.write_text(text + second)
    first = made(bench, "svc-first")
    with bench.app() as app:
        sinks: Any = app.desks[0].sinks
        sinks["second"] = Wrapped(sinks["second"], deliver=down)
        assert [r.outcome for r in sweep(app.desks[0]).results] == [Outcome.UNSETTLED]
        other = made(bench, "other-late")
        jump(bench)
        assert sweep(app.desks[0]).plan.skipped == {Skip.BAD_PATH: 1}
    jump(bench)
    bench.sweep()
    assert of(bench) == first.id
    assert bench.sandbox.store.posts(other.id) == 0


def swept(desk: Desk, policy: str) -> Report:
    """One pass over one policy: two processes may have one each."""
    return run_sweep(desk, [p for p in desk.policies if p.name == policy], None, lambda _: True)


def meanwhile(bench: Lab, policy: str, reports: list[Report]) -> Callable[..., Any]:
    """A method during whose first call another process sweeps a policy."""

    def call(real: Callable[..., Any], *args: Any) -> Any:
        answer = real(*args)
        if not reports:
            with bench.app() as app:
                reports.append(swept(app.desks[0], policy))
        return answer

    return call


def test_a_place_belongs_to_a_rotation_of_another_process(bench: Lab) -> None:
    """It has its new secret and has not settled yet: who plans at this moment leaves the place alone."""
    first, other = made(bench, "svc-first"), made(bench, "other-late")
    theirs: list[Report] = []
    with spoilt(bench, provider={"rotate": meanwhile(bench, "others", theirs)}) as (_, desk):
        swept(desk, "services")
    assert theirs[0].plan.skipped == {Skip.BAD_PATH: 1}
    assert of(bench) == first.id
    assert bench.sandbox.store.posts(other.id) == 0


def test_a_place_that_was_taken_after_the_plan_is_refused_with_the_intent(bench: Lab) -> None:
    """Two processes planned for one place: the second to write its intent writes none, and hears whose the place is."""
    first, other = made(bench, "svc-first"), made(bench, "other-late")
    with spoilt(bench, journal={"preflight": meanwhile(bench, "services", [])}) as (_, desk):
        [result] = swept(desk, "others").results
    assert result.outcome is None
    assert f"belongs to token {first.id}" in result.message
    assert of(bench) == first.id
    assert bench.sandbox.store.posts(other.id) == 0


def test_a_rotation_without_effect_gives_its_place_back(bench: Lab) -> None:
    """What was refused has delivered nothing and never settled: the next token may have the place."""
    made(bench, "svc-first")
    with spoilt(bench, provider={"rotate": refusing(Permanent("no"))}) as (_, desk):
        assert [r.outcome for r in sweep(desk).results] == [Outcome.FAILED]
    other = made(bench, "other-late")
    bench.sweep()
    assert of(bench) == other.id


def test_a_half_delivered_place_is_kept_until_its_token_is_gone(bench: Lab) -> None:
    """Superseded before it settled: its consumers read there still. Once the token is deleted, the place is free."""
    first = made(bench, "svc-first")
    with spoilt(bench, sink={"read_back": down}) as (_, desk):
        assert [r.outcome for r in sweep(desk).results] == [Outcome.UNSETTLED]
    jump(bench)
    bench.sandbox.store.rotate(first.id, "a person")
    with spoilt(bench, sink={"preflight": down}) as (_, desk):  # so that it is not planned anew at once
        sweep(desk)
    other = made(bench, "other-late")
    bench.config_path.write_text(bench.config_path.read_text().replace('"svc-*"', '"svc-none"'))
    assert bench.sweep().plan.skipped == {Skip.BAD_PATH: 1}
    bench.sandbox.store.delete(first.id)
    for _ in range(2):
        jump(bench)
        bench.sweep()
    assert of(bench) == other.id


def test_a_rotation_that_an_older_version_opened_has_its_place(bench: Lab) -> None:
    """It owns nothing in the journal, and is seen all the same."""
    first = made(bench, "svc-first")
    with spoilt(bench, sink={"deliver": down}) as (_, desk):
        sweep(desk)
    with sqlite3.connect(bench.folder / "rotator.db") as raw:
        raw.execute("DELETE FROM places")
    raw.close()
    other = made(bench, "other-late")
    with spoilt(bench, sink={"deliver": down}) as (_, desk):
        assert sweep(desk).plan.skipped == {Skip.BAD_PATH: 1}
    jump(bench)
    bench.sweep()
    assert of(bench) == first.id
    assert bench.sandbox.store.posts(other.id) == 0


@pytest.mark.parametrize("is_settled", [True, False])
@pytest.mark.parametrize("keyed", ["services", "others"])
def test_a_file_is_not_shared_by_one_that_writes_it_whole(bench: Lab, keyed: str, is_settled: bool) -> None:
    """A raw file of one token holds no key of another: the second to come is held back before anything is rotated."""
    text, block = bench.config_path.read_text(), 'path = "shared"\n'
    wanted = text.index(block, text.index(f"[[policies.{keyed}.deliver]]"))
    bench.config_path.write_text(f'{text[:wanted]}format = "env"\n{text[wanted:]}')
    made(bench, "svc-first")
    if is_settled:
        assert len(bench.sweep().results) == 1
    made(bench, "other-late")
    report = bench.sweep()
    assert report.plan.skipped[Skip.BAD_PATH] == 1
    assert len(report.results) == (0 if is_settled else 1)


def test_one_policy_does_not_write_a_file_whole_and_a_key_of_it(bench: Lab) -> None:
    """Two of its own deliveries would refuse each other for ever."""
    text = bench.config_path.read_text()
    also = '[[policies.services.deliver]]\nsink = "files"\npath = "shared"\nformat = "env"\n[policies.others]'
    bench.config_path.write_text(text.replace("[policies.others]", also))
    made(bench, "svc-first")
    assert bench.sweep().plan.skipped == {Skip.BAD_PATH: 1}


def test_what_is_taken_over_at_the_second_look_has_its_place(bench: Lab) -> None:
    """A person mended it between the plan and its turn: nothing is rotated, and nobody else gets the file."""
    first = made(bench, "svc-first")
    bench.sweep()
    jump(bench, timedelta(hours=1))
    bench.sandbox.store.rotate(first.id, "a person")
    forget(bench)
    jump(bench)
    with bench.app() as app:
        run_sweep(app.desks[0], app.desks[0].policies, None, lambda _: False)  # sees a dead secret of it
    (bench.folder / "secrets" / "shared").write_text(bench.sandbox.store.secret_of(first.id))
    jump(bench)
    assert [r.outcome for r in bench.sweep().results] == [None]
    made(bench, "other-late")
    assert bench.sweep().plan.skipped[Skip.BAD_PATH] == 1
    assert of(bench) == first.id
