"""Drift: what people, other rotators and backups do to sinks and tokens behind our back, and what mends it."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.events import EventName
from rotator.model import Heal, Outcome, Reason
from tests.lab import Lab, lab

DAY = timedelta(days=1)
TWO_SINKS = """
[[policies.services.deliver]]
sink = "copies"
path = "{token_id}"

[sinks.copies]
type = "file"
directory = "copies"
"""


def settled(bench: Lab) -> str:
    """Sweep once and return a token that was rotated."""
    root = bench.due_ids()[0]
    assert {result.outcome for result in bench.sweep().results} == {Outcome.SETTLED}
    return root


def two_sinks(bench: Lab) -> None:
    """Deliver to two folders."""
    bench.config_path.write_text(bench.config_path.read_text() + TWO_SINKS)


def file_of(bench: Lab, token_id: str, folder: str = "secrets") -> Path:
    """Return where a secret lies."""
    return bench.folder / folder / token_id


def by_hand(bench: Lab, token_id: str) -> str:
    """Rotate as a person does in the UI, and return the new secret."""
    bench.sandbox.store.rotate(token_id, bench.sandbox.store.owner_id)
    return bench.sandbox.store.secret_of(token_id)


def later(bench: Lab, by: timedelta = timedelta(hours=25)) -> dict[str, tuple[Reason, Outcome | None]]:
    """Jump past the drift check, sweep, and return what was done by token id."""
    assert bench.clock is not None
    bench.clock.jump(by)
    return {result.token_id: (result.reason, result.outcome) for result in bench.sweep().results}


def lives(bench: Lab, token_id: str, folder: str = "secrets") -> bool:
    """Whether the file authenticates as its token."""
    return bench.sandbox.store.authenticates_as(file_of(bench, token_id, folder).read_text()) == token_id


def posts(bench: Lab, token_id: str) -> int:
    """How often we asked for a new secret."""
    return bench.sandbox.store.posts(token_id)


def test_rotated_by_hand_and_the_sink_updated_is_adopted(tmp_path: Path) -> None:
    """A person did both: it is taken over at once, without a call that changes anything."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        file_of(bench, root).write_text(by_hand(bench, root))
        assert later(bench, timedelta(minutes=5)) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert (posts(bench, root), lives(bench, root)) == (1, True)
        assert later(bench) == {}


def test_rotated_by_hand_and_the_sink_forgotten_is_rotated(tmp_path: Path) -> None:
    """The sink holds a dead secret and nobody knows the live one: rotated at once, windows or not."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        by_hand(bench, root)
        closed = 'windows = ["mon 00:00-00:01"]\nblackouts = ["2000-01-01..2099-01-01"]\n[policies.services.select]'
        bench.config_path.write_text(bench.config_path.read_text().replace("[policies.services.select]", closed))
        assert later(bench, timedelta(minutes=5)) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert (posts(bench, root), lives(bench, root)) == (2, True)


@pytest.mark.parametrize("damage", ["edited", "deleted"])
def test_one_of_two_sinks_is_mended_from_the_other(tmp_path: Path, damage: str) -> None:
    """What the other sink holds authenticates, so it is copied; nothing is rotated."""
    with lab(tmp_path) as bench:
        two_sinks(bench)
        root = settled(bench)
        before = file_of(bench, root).read_text()
        copy = file_of(bench, root, "copies")
        copy.write_text("edited") if damage == "edited" else copy.unlink()
        assert later(bench, timedelta(hours=1)) == {}
        assert later(bench) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert (posts(bench, root), copy.read_text()) == (1, before)


def test_a_person_who_updated_only_one_sink_is_helped(tmp_path: Path) -> None:
    """Rotated by hand, one sink updated: its live secret goes to the other one."""
    with lab(tmp_path) as bench:
        two_sinks(bench)
        root = settled(bench)
        file_of(bench, root, "copies").write_text(by_hand(bench, root))
        assert later(bench, timedelta(minutes=5)) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert (posts(bench, root), lives(bench, root), lives(bench, root, "copies")) == (1, True, True)


@pytest.mark.parametrize("damage", ["edited", "deleted"])
def test_a_secret_that_no_sink_holds_any_more_is_rotated(tmp_path: Path, damage: str) -> None:
    """The only sink was edited or emptied: only a new secret helps."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        file_of(bench, root).write_text("edited") if damage == "edited" else file_of(bench, root).unlink()
        assert later(bench) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert (posts(bench, root), lives(bench, root)) == (2, True)


def test_an_edit_waits_for_the_window_and_counts_in_the_brake(tmp_path: Path) -> None:
    """Not proven dead, so consumers may work: the window holds it back; and it is one of the plan's rotations."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        file_of(bench, root).write_text("edited")
        text = bench.config_path.read_text()
        closed = 'blackouts = ["2000-01-01..2099-01-01"]\n[policies.services.select]'
        bench.config_path.write_text(text.replace("[policies.services.select]", closed))
        assert later(bench) == {}
        assert bench.sweep().plan.skipped["blackout"] == 1  # type: ignore[index]
        bench.config_path.write_text(text)
        report = bench.sweep()
        assert [row.mints for row in report.plan.due] == [True]
        assert {result.reason for result in report.results} == {Reason.DRIFTED}


def test_rolled_back_again_and_again_ends_in_quarantine(tmp_path: Path) -> None:
    """Somebody puts the old secret back after every rotation: the second time within a week we stop and say so."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        old = file_of(bench, root).read_text()
        by_hand(bench, root)
        assert later(bench)[root] == (Reason.DRIFTED, Outcome.SETTLED)
        file_of(bench, root).write_text(old)
        assert later(bench)[root] == (Reason.DRIFTED, Outcome.QUARANTINED)
        file_of(bench, root).write_text(old)
        assert later(bench) == {}
        assert posts(bench, root) == 2
        assert EventName.TOKEN_QUARANTINED in {event.name for event in bench.events}


def test_on_drift_alert_names_it_only(tmp_path: Path) -> None:
    """With `on_drift = "alert"` nothing is mended, and the plan says what was found."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        text = bench.config_path.read_text()
        bench.config_path.write_text(
            text.replace("[policies.services.select]", 'on_drift = "alert"\n[policies.services.select]')
        )
        by_hand(bench, root)
        assert later(bench) == {}
        assert posts(bench, root) == 1
        found = [event for event in bench.events if event.name is EventName.DRIFT_FOUND]
        assert [(event.token_id, event.error) for event in found] == [(root, "rotated_elsewhere")]


def test_a_sink_that_cannot_be_read_is_unknown_and_never_a_reason_to_rotate(tmp_path: Path) -> None:
    """A folder where the file should be: shown as unknown, nothing is rotated; once it is right again all is well."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        place = file_of(bench, root)
        secret = place.read_text()
        place.unlink()
        place.mkdir()
        assert later(bench) == {}
        with bench.app() as app:
            drift = app.reader.lineages("astro", [root])[root].drift
        assert drift is not None
        assert drift.heal is Heal.UNKNOWN
        place.rmdir()
        place.write_text(secret)
        assert later(bench) == {}
        with bench.app() as app:
            assert app.reader.lineages("astro", [root])[root].drift is None


def forget(bench: Lab) -> None:
    """Lose the journal, as a CronJob without a volume does."""
    for path in bench.folder.glob("rotator.*"):
        if path.suffix != ".toml":
            path.unlink() if path.is_file() else [*map(Path.unlink, path.iterdir()), path.rmdir()]


def test_an_empty_journal_takes_over_what_lives(tmp_path: Path) -> None:
    """Without a journal, tokens whose sinks hold their live secret are taken over; nothing is rotated again."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        forget(bench)
        assert later(bench, timedelta(minutes=5)) == {}
        assert posts(bench, root) == 1
        with bench.app() as app:
            assert app.reader.lineages("astro", [root])[root].settled_at is not None


def test_an_empty_journal_finds_stale_sinks(tmp_path: Path) -> None:
    """Without a journal, a sink with a dead secret of its token is found by the JWT in it, and mended."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        assert bench.clock is not None
        bench.clock.jump(timedelta(hours=1))
        by_hand(bench, root)
        forget(bench)
        assert later(bench, timedelta(minutes=5)) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert lives(bench, root)


def test_a_token_that_was_never_ours_has_not_drifted(tmp_path: Path) -> None:
    """Fresh tokens with empty sinks, or with something else in them, are left alone until age makes them due."""
    with lab(tmp_path) as bench:
        fresh = [t.id for t in bench.sandbox.store.tokens.values() if t.name.startswith("svc-")]
        fresh = [token_id for token_id in fresh if token_id not in bench.due_ids()]
        (bench.folder / "secrets").mkdir()
        file_of(bench, fresh[0]).write_text("what somebody else put here")
        settled(bench)
        assert later(bench) == {}
        assert not any(posts(bench, token_id) for token_id in fresh)


def test_a_journal_from_yesterday_rotates_nothing_that_lives(tmp_path: Path) -> None:
    """A restored backup knows less than the sinks: what they hold lives, so it is taken over."""
    with lab(tmp_path) as bench:
        settled(bench)
        backup = {path: path.read_bytes() for path in bench.folder.glob("rotator.db*") if path.is_file()}
        assert bench.clock is not None
        bench.clock.jump(91 * DAY)
        due = bench.due_ids()
        bench.sweep()
        before = {token_id: posts(bench, token_id) for token_id in due}
        for path, content in backup.items():
            path.write_bytes(content)
        (bench.folder / "audit.jsonl").unlink()
        assert {outcome for _, outcome in later(bench, timedelta(minutes=5)).values()} <= {Outcome.SETTLED}
        assert before == {token_id: posts(bench, token_id) for token_id in due}
        assert all(lives(bench, token_id) for token_id in due)


def test_two_installations_on_one_token_do_not_fight_for_ever(tmp_path: Path) -> None:
    """Two rotators with sinks of their own on one token: each rotates once for the drift, then they are quarantined."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        text = bench.config_path.read_text()
        other = text.replace('directory = "secrets"', 'directory = "other"').replace(
            "[providers.astro]", '[journal]\nurl = "sqlite:///other.db"\nkey = "file:other.key"\n[providers.astro]'
        )
        assert bench.clock is not None
        for turn in range(8):
            bench.config_path.write_text(other if turn % 2 else text)
            if turn % 2:
                (bench.folder / "other").mkdir(exist_ok=True)
                if turn == 1:
                    (bench.folder / "other" / root).write_text(file_of(bench, root).read_text())
            bench.clock.jump(timedelta(hours=25))
            if turn == 2:
                by_hand(bench, root)
            bench.sweep()
        assert posts(bench, root) <= 4


def test_our_own_looks_never_send_a_foreign_secret_anywhere(tmp_path: Path) -> None:
    """Only a JWT that names this very token and organization is tried at the API."""
    with lab(tmp_path) as bench:
        root = settled(bench)
        other = next(t.id for t in bench.sandbox.store.tokens.values() if t.id != root)
        file_of(bench, root).write_text(bench.sandbox.store.secret_of(other))
        before = bench.sandbox.store.tokens[other].last_used_at
        later(bench)
        assert bench.sandbox.store.tokens[other].last_used_at == before or other == bench.sandbox.store.owner_id


def test_status_names_a_drift_from_the_listing_alone(tmp_path: Path) -> None:
    """A moved generation shows in status at once, without a look at any sink."""
    import subprocess
    import sys

    with lab(tmp_path, jumping=False) as bench:
        root = settled(bench)
        by_hand(bench, root)
        command = [sys.executable, "-m", "rotator", "status", "--json", "--config", str(bench.config_path)]
        shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["tokens"]
        assert {row["state"] for row in shown if row["token_id"] == root} == {"drifted"}


def test_a_secret_from_moments_before_ours_is_known_to_be_dead(tmp_path: Path) -> None:
    """Two rotations within a minute, and the older secret is put back: rejected and older than ours, so it is dead."""
    with lab(tmp_path) as bench:
        root = bench.due_ids()[0]
        older = by_hand(bench, root)
        bench.sandbox.store.tokens[root].last_rotated_at -= timedelta(days=91)  # type: ignore[operator]
        assert bench.clock is not None
        bench.clock.jump(timedelta(seconds=10))
        settled(bench) if root in bench.due_ids() else bench.sweep()
        file_of(bench, root).write_text(older)
        assert later(bench)[root] == (Reason.DRIFTED, Outcome.SETTLED)
        assert lives(bench, root)
