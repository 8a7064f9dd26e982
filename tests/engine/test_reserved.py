"""No delivery goes over what rotator itself lives on: its credentials, journal, key, audit trail and config."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.engine.sweep import sweep
from rotator.errors import Temporary
from rotator.events import EventName
from rotator.model import Outcome, Skip
from rotator.sandbox.store import Draft, Record
from tests.engine.test_hard_cases import spoilt
from tests.engine.test_own import holder, outcomes, owning
from tests.lab import Lab, lab, write_secret


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab with no token but our own."""
    with lab(tmp_path) as made:
        for token_id in list(made.sandbox.store.tokens):
            if token_id != made.sandbox.store.owner_id:
                made.sandbox.store.delete(token_id)
        yield made


def old(bench: Lab, name: str, role: str = "ORGANIZATION_MEMBER") -> Record:
    """Make a token that is long due."""
    store = bench.sandbox.store
    made = store.create(Draft(name, "ORGANIZATION", store.organization_id, role), store.owner_id)
    made.created_at = made.start_at = store.now() - timedelta(days=200)
    return made


def edit(bench: Lab, *changes: tuple[str, str]) -> None:
    """Change the config."""
    text = bench.config_path.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    bench.config_path.write_text(text)


def jump(bench: Lab, by: timedelta) -> None:
    """Let time pass."""
    assert bench.clock is not None
    bench.clock.jump(by)


def refusals(bench: Lab) -> list[str]:
    """Why places were refused."""
    return [event.message for event in bench.events if event.name is EventName.PLACE_REFUSED]


def plainly(bench: Lab, file: Path) -> None:
    """Our reference names the file."""
    (bench.folder / "credential").rename(file)
    edit(bench, ("file:credential", f"file:secrets/{file.name}"))


def by_a_symbolic_link(bench: Lab, file: Path) -> None:
    """Our reference names a link to the file."""
    (bench.folder / "credential").rename(file)
    (bench.folder / "credential").symlink_to(file)


def by_another_name(bench: Lab, file: Path) -> None:
    """Our reference names the same file where no link shows it, as after a bind mount."""
    os.link(bench.folder / "credential", file)


def of_another_provider(bench: Lab, file: Path) -> None:
    """The file is read by a provider that no policy uses."""
    plainly(bench, file)
    text = bench.config_path.read_text()
    table = text[text.index("[providers.astro]") : text.index("[sinks.files]")]
    write_secret(bench.folder / "credential", file.read_text())
    other = table.replace("providers.astro", "providers.other")
    edit(bench, (f"file:secrets/{file.name}", "file:credential"), ("[sinks.files]", f"{other}\n[sinks.files]"))
    edit(bench, ("[policies.services]", '[policies.services]\nprovider = "astro"'))


@pytest.mark.parametrize("named", [plainly, by_a_symbolic_link, by_another_name, of_another_provider])
def test_another_token_is_not_delivered_over_our_own_credential(bench: Lab, named: Callable[[Lab, Path], None]) -> None:
    """Whatever our reference calls the file: the token is held back before anything is rotated, and it is said."""
    (bench.folder / "secrets").mkdir(mode=0o700)
    file = bench.folder / "secrets" / "svc-rotator"
    named(bench, file)
    edit(bench, ('path = "{token_id}"', 'path = "{name}"'))
    before, token = file.read_text(), old(bench, "svc-rotator")
    report = bench.sweep()
    assert (report.results, report.plan.skipped[Skip.BAD_PATH]) == ([], 1)
    assert (file.read_text(), bench.sandbox.store.rotations(token.id)) == (before, 0)
    [said] = refusals(bench)
    assert f"files:{file} is where file:" in said
    assert bench.sandbox.store.owner_id in said


@pytest.mark.parametrize("strategy", ["in_place", "overlap"])
def test_what_a_person_replaced_our_credential_with_is_not_overwritten(bench: Lab, strategy: str) -> None:
    """The token that we worked with before is selected still and has its place there: it is held back."""
    store, file = bench.sandbox.store, bench.folder / "credential"
    owning(bench, age="90d")
    edit(bench, ("[policies.own]\n", f'[policies.own]\nstrategy = "{strategy}"\n'))
    jump(bench, timedelta(days=100))
    bench.sweep()
    jump(bench, timedelta(hours=1))
    bench.sweep()
    before = holder(bench)
    other = old(bench, "emergency", role="ORGANIZATION_OWNER")
    write_secret(file, store.secret_of(other.id))
    jump(bench, timedelta(hours=25))
    report = bench.sweep()
    assert file.read_text() == store.secret_of(other.id)
    assert report.plan.skipped[Skip.BAD_PATH] == 1
    assert f"not this token but {other.id}" in refusals(bench)[-1]
    store.delete(before or "")
    bench.sweep()
    assert holder(bench) == other.id


def test_a_credential_that_is_replaced_after_planning_stops_its_renewal(bench: Lab) -> None:
    """It is looked at once more right before the intent: nothing is made, nothing is overwritten."""
    owning(bench)
    other = old(bench, "emergency", role="ORGANIZATION_OWNER")
    secret = bench.sandbox.store.secret_of(other.id)

    def replacing(_: object) -> bool:
        write_secret(bench.folder / "credential", secret)
        return True

    with bench.app() as app:
        report = sweep(app.desks[0], app.desks[0].policies, None, replacing)
    [result] = report.results
    assert (result.outcome, result.rotation_id) == (Outcome.FAILED, "")
    assert "planned anew" in result.message
    assert (bench.folder / "credential").read_text() == secret


def test_a_credential_that_is_replaced_before_the_delivery_is_kept(bench: Lab) -> None:
    """The new secret stays sealed, the file stays what it was made, and once it is put back the rotation settles."""
    owning(bench)
    store, file = bench.sandbox.store, bench.folder / "credential"
    ours = file.read_text()
    other = old(bench, "emergency", role="ORGANIZATION_OWNER")

    def replacing(real: Callable[..., object], *words: object) -> object:
        made = real(*words)
        write_secret(file, store.secret_of(other.id))
        return made

    with spoilt(bench, provider={"create": replacing}) as (_, desk):
        [result] = sweep(desk, desk.policies, None, lambda _: True).results
    assert (result.outcome, other.id in result.message) == (Outcome.UNSETTLED, True)
    [again] = bench.sweep().results
    assert again.outcome is Outcome.UNSETTLED
    assert holder(bench) == other.id
    write_secret(file, ours)
    jump(bench, timedelta(minutes=3))
    assert {result.outcome for result in bench.sweep().results} == {Outcome.SETTLED}
    assert holder(bench) not in (None, other.id, store.owner_id)


def test_what_is_dead_there_gives_way_to_the_new_secret(bench: Lab) -> None:
    """A backup or a slip of a hand put something there that no longer works: nothing that lives is lost."""
    owning(bench)
    file = bench.folder / "credential"

    def down(*_: object) -> None:
        raise Temporary("down")

    with spoilt(bench, sink={"deliver": down}) as (_, desk):
        assert {r.outcome for r in sweep(desk, desk.policies, None, lambda _: True).results} == {Outcome.UNSETTLED}
    write_secret(file, "a note of somebody's")
    jump(bench, timedelta(minutes=30))
    assert Outcome.SETTLED in {result.outcome for result in bench.sweep().results}
    assert holder(bench) not in (None, bench.sandbox.store.owner_id)


def test_what_was_made_a_moment_ago_is_not_taken_for_dead(bench: Lab) -> None:
    """The API may reject a secret that is new; it gives way only once it could have been accepted."""
    owning(bench)
    store, file = bench.sandbox.store, bench.folder / "credential"

    def down(*_: object) -> None:
        raise Temporary("down")

    with spoilt(bench, sink={"deliver": down}) as (_, desk):
        sweep(desk, desk.policies, None, lambda _: True)
    made = store.create(Draft("new", "ORGANIZATION", store.organization_id, "ORGANIZATION_OWNER"), store.owner_id)
    rejected = store.secret_of(made.id)
    store.rotate(made.id, store.owner_id)
    write_secret(file, rejected)
    jump(bench, timedelta(minutes=5))
    with pytest.raises(Temporary, match="not accepted yet"):
        bench.sweep()
    assert file.read_text() == rejected
    jump(bench, timedelta(minutes=30))
    bench.sweep()
    assert holder(bench) not in (None, made.id, store.owner_id)


def test_a_credential_that_lies_in_two_places_is_renewed_in_both(bench: Lab) -> None:
    """Two references to copies of one token: either place holds this very token."""
    write_secret(bench.folder / "copy", (bench.folder / "credential").read_text())
    edit(bench, ('"file:credential"', '["file:credential", "file:copy"]'))
    owning(bench)
    both = '\n[[policies.own.deliver]]\nsink = "state"\npath = "copy"\n'
    bench.config_path.write_text(bench.config_path.read_text() + both)
    before = bench.sandbox.store.owner_id
    assert outcomes(bench)[before][0] is Outcome.SETTLED
    assert holder(bench) == holder(bench, "copy") != before


OURS = ("rotator.toml", "rotator.db", "rotator.db-wal", "rotator.db-shm", "rotator.db.lock", "rotator.db.instances",
        "rotator.key", "audit.jsonl", "audit.jsonl.1", "audit.jsonl-20260101.gz", "audit-20260101.jsonl")  # fmt: skip


@pytest.mark.parametrize("fields", ["", 'format = "json"\n'])
def test_nothing_is_delivered_into_the_files_of_rotator_itself(bench: Lab, fields: str) -> None:
    """Whatever tokens are called and wherever a sink's folder is; and only those files are refused."""
    edit(bench, ('directory = "secrets"', 'directory = "."'), ('names = ["svc-*"]', 'names = ["rot*", "audit*"]'))
    edit(bench, ('path = "{token_id}"', f'path = "{{name}}"\n{fields}'))
    edit(bench, ("[policies.services.when]", 'exclude_names = ["rotator-credential"]\n[policies.services.when]'))
    ours = [old(bench, name).id for name in OURS]
    free = old(bench, "audit-bot").id
    report = bench.sweep()
    assert [(result.token_id, result.outcome) for result in report.results] == [(free, Outcome.SETTLED)]
    assert report.plan.skipped[Skip.BAD_PATH] == len(ours)
    assert not any(bench.sandbox.store.posts(token_id) for token_id in ours)
    assert {said.partition("; ")[0].partition("is a ")[2] for said in refusals(bench)} == {
        "file that rotator itself needs"
    }
