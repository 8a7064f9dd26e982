"""What a person asks for by name, and what happens when a secret leaked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.engine.manual import Asked, braked, named, rotate, whose
from rotator.errors import ConfigError
from rotator.events import EventName
from rotator.model import Outcome, Reason
from rotator.sandbox import Fault
from rotator.secret import Secret
from tests.lab import Lab, lab

DAY = timedelta(days=1)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab with a jumping clock."""
    with lab(tmp_path) as made:
        yield made


def fresh(bench: Lab) -> str:
    """Return a token that no sweep would rotate."""
    return next(
        t.id for t in bench.sandbox.store.tokens.values() if t.name[:4] == "svc-" and t.id not in bench.due_ids()
    )


def now(bench: Lab, token_id: str, *, yes: bool = False, **asked: object) -> tuple[Outcome | None, str]:
    """Rotate one token now; answer every question with `yes`."""
    with bench.app() as app:
        choice = named(app.desks, [token_id])
        [result] = rotate(app.desks[0], choice.rows["astro"], Asked(**asked), lambda _: yes)  # type: ignore[arg-type]
    return result.outcome, result.message


def lives(bench: Lab, token_id: str) -> bool:
    """Whether the token's file authenticates as it."""
    return bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") == token_id


def add(bench: Lab, *lines: str) -> None:
    """Add keys to the policy."""
    text = bench.config_path.read_text()
    bench.config_path.write_text(
        text.replace("[policies.services.select]", "\n".join(lines) + "\n[policies.services.select]")
    )


def test_a_request_skips_age_and_windows(bench: Lab) -> None:
    """A fresh token in a blackout is rotated because a person asked for it, and the record says so."""
    add(bench, 'blackouts = ["2000-01-01..2099-01-01"]')
    token_id = fresh(bench)
    assert now(bench, token_id, note="new\nteam")[0] is Outcome.SETTLED
    assert lives(bench, token_id)
    [intent] = [event for event in bench.events if event.name is EventName.ROTATION_INTENDED]
    assert (intent.reason, intent.message) == (Reason.REQUESTED, "a person asked for it: new\\x0ateam")


@pytest.mark.parametrize("leaked", [False, True])
def test_pause_holds_a_request_back_but_not_a_leak(bench: Lab, leaked: bool) -> None:
    """A paused policy says no to a request, and yields to a leak."""
    add(bench, "paused_until = 2099-01-01T00:00:00Z")
    outcome, message = now(bench, fresh(bench), leaked=leaked)
    assert outcome is (Outcome.SETTLED if leaked else Outcome.FAILED)
    assert leaked or "paused until" in message


def test_a_name_that_is_not_unique_or_not_selected_is_refused_with_ids(bench: Lab) -> None:
    """Ambiguous: the ids are listed; selected by no policy: said so; unknown: said so."""
    first, second = list(bench.sandbox.store.tokens.values())[1:3]
    first.name = second.name = "svc-twice"
    with bench.app() as app:
        for word, said in (
            ("svc-twice", f"{second.id}" if second.id > first.id else first.id),
            ("rotator-credential", "no policy selects"),
            ("svc-unknown", "no token"),
        ):
            with pytest.raises(ConfigError, match=said):
                named(app.desks, [word])


def test_a_request_obeys_the_brake_and_a_leak_does_not(bench: Lab) -> None:
    """More tokens than max_rotations: refused until accepted; a leak goes."""
    bench.config_path.write_text(bench.config_path.read_text().replace("max_rotations = 10000", "max_rotations = 1"))
    with bench.app() as app:
        choice = named(app.desks, bench.due_ids())
        refused = braked(choice, Asked(), None)
        assert [refusal.reason for refusal in refused.refused] == ["brake"]
        assert not braked(choice, Asked(), refused.id).refused
        assert not braked(choice, Asked(leaked=True), None).refused


def test_a_leaked_secret_is_found_by_what_leaked(bench: Lab) -> None:
    """The JWT names its token; a short token is looked up; anything else is refused without an echo."""
    token = bench.sandbox.store.tokens[fresh(bench)]
    with bench.app() as app:
        assert whose(app.desks, Secret(bench.sandbox.store.secret_of(token.id))) == token.id
        assert whose(app.desks, Secret(token.short_token)) == token.id
        with pytest.raises(ConfigError) as caught:
            whose(app.desks, Secret("canary-in-the-mine"))
    assert "canary" not in str(caught.value)


def test_a_leak_takes_the_place_of_an_open_rotation(bench: Lab) -> None:
    """A rotation in doubt is gone on with at once: the leaked secret is dead, the new one delivered, settled late."""
    token_id = bench.due_ids()[0]
    bench.sandbox.script("rotate", Fault.RESET_BEFORE, token_id)
    bench.sweep()
    assert not lives(bench, token_id)
    old = bench.sandbox.store.secret_of(token_id)
    assert now(bench, token_id, leaked=True)[0] is Outcome.UNSETTLED
    assert (lives(bench, token_id), bench.sandbox.store.is_alive(old)) == (True, False)
    assert bench.clock is not None
    bench.clock.jump(timedelta(minutes=3))
    assert [result.outcome for result in bench.sweep().results] == [Outcome.SETTLED]


def test_a_leak_ends_every_other_living_member(bench: Lab) -> None:
    """Under overlap the old member is in use and in grace: after a leak it is gone, and the new one is rotated."""
    add(bench, 'strategy = "overlap"', 'grace = "30d"')
    root = bench.due_ids()[0]
    old = bench.sandbox.store.secret_of(root)
    bench.sweep()
    bench.sandbox.store.touch(root)
    twin = bench.sandbox.store.authenticates_as(bench.delivered(root) or "")
    leaked = bench.delivered(root) or ""
    assert now(bench, root, leaked=True)[0] is Outcome.SETTLED
    store = bench.sandbox.store
    assert (store.is_alive(old), store.is_alive(leaked), root in store.tokens) == (False, False, False)
    assert store.authenticates_as(bench.delivered(root) or "") == twin


def test_a_leak_ends_a_twin_that_never_settled(bench: Lab) -> None:
    """An overlap that was open when the secret leaked leaves no second living secret behind."""
    add(bench, 'strategy = "overlap"')
    root = bench.due_ids()[0]
    (bench.folder / "secrets").mkdir()
    count = len(bench.sandbox.store.tokens)
    for fault in (Fault.ERROR_503_TEXT,) * 40:
        bench.sandbox.script("roles", fault)
    store = bench.sandbox.store
    record = store.tokens[root]
    extra = type(record.roles[0])("WORKSPACE", next(iter(store.workspaces)), "WORKSPACE_MEMBER")
    if record.scope == "ORGANIZATION":
        store.set_roles(root, root, (*record.roles, extra))
    bench.sweep()
    now(bench, root, leaked=True, revoke_first=True)
    assert lives(bench, root) or store.authenticates_as(bench.delivered(root) or "")
    alive = [t for t in store.tokens.values() if t.name == record.name]
    assert len(alive) == 1
    assert len(store.tokens) <= count + len(bench.due_ids())


@pytest.mark.parametrize("how", ["no", "asked", "revoke_first"])
def test_a_sink_that_is_down_is_the_persons_decision(bench: Lab, how: str) -> None:
    """Refused without a yes; with one the leaked secret dies now, and the new one waits sealed for the sink."""
    token_id = bench.due_ids()[0]
    old = bench.sandbox.store.secret_of(token_id)
    (bench.folder / "secrets").write_text("not a folder")
    outcome, _ = now(bench, token_id, yes=how == "asked", leaked=True, revoke_first=how == "revoke_first")
    assert outcome is (Outcome.FAILED if how == "no" else Outcome.UNSETTLED)
    assert bench.sandbox.store.is_alive(old) is (how == "no")
    (bench.folder / "secrets").unlink()
    bench.sweep()
    assert lives(bench, token_id)
    assert bench.sandbox.store.posts(token_id) == 1


def test_quarantine_holds_a_request_back_but_not_a_leak(bench: Lab) -> None:
    """A quarantined token is refused with the way out; a leak goes."""
    token_id = bench.due_ids()[0]
    with bench.app() as app:
        from dataclasses import replace

        from rotator.model import Lineage

        lineage = replace(
            Lineage("astro", token_id, token_id, "x"), quarantined_at=app.clock.now(), quarantine_reason="y"
        )
        assert app.desks[0].remember(lineage)
    outcome, message = now(bench, token_id)
    assert (outcome, "rotator release" in message) == (Outcome.FAILED, True)
    assert now(bench, token_id, leaked=True)[0] is Outcome.SETTLED


def command(bench: Lab, *words: str, told: str = "") -> subprocess.CompletedProcess[str]:
    """Run `rotator rotate`."""
    return subprocess.run(
        [sys.executable, "-m", "rotator", "rotate", *words, "--config", str(bench.config_path)],
        input=told, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=60,
    )  # fmt: skip


def test_the_command_says_what_was_done(tmp_path: Path) -> None:
    """By name, several at once, as JSON; without a token a usage error; what is read stays unseen."""
    with lab(tmp_path, jumping=False) as bench:
        token = bench.sandbox.store.tokens[fresh(bench)]
        told = command(bench, token.name, "--json")
        assert (told.returncode, [row["reason"] for row in json.loads(told.stdout)["settled"]]) == (0, ["requested"])
        assert command(bench).returncode == 2
        assert command(bench, "--revoke-first", token.id).returncode == 2
        secret = bench.sandbox.store.secret_of(token.id)
        leaked = command(bench, "--leaked", told=secret + "\n")
        assert leaked.returncode == 0, leaked.stderr
        assert not bench.sandbox.store.is_alive(secret)
        signature = secret.rsplit(".", 1)[1]
        everything = leaked.stdout + leaked.stderr + (bench.folder / "audit.jsonl").read_text()
        assert signature not in everything


def test_a_leak_of_our_own_credential_gives_the_steps_by_hand(tmp_path: Path) -> None:
    """Rotating it could lock us out: exit 5 with what a person has to do, and nothing is touched."""
    with lab(tmp_path, jumping=False) as bench:
        text = bench.config_path.read_text().replace('names = ["svc-*"]', 'names = ["*"]')
        bench.config_path.write_text(text)
        run = command(bench, "--leaked", told=bench.sandbox.credential)
        assert (run.returncode, "Delete" in run.stderr) == (5, True)
        assert not bench.sandbox.store.posts(bench.sandbox.store.owner_id)
