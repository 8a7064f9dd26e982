"""Several providers in one run, and rotations whose provider the config lost: nobody's trouble hides anybody's work."""

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.cli.sweeping import exit_code, run, show_plan
from rotator.errors import ConfigError, CredentialRejected, Temporary
from rotator.sandbox import Fault
from tests.cli.test_commands import rotator
from tests.lab import Lab, lab, write_secret


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab in real time."""
    with lab(tmp_path, jumping=False) as made:
        yield made


def edit(bench: Lab, *pairs: tuple[str, str]) -> None:
    """Replace parts of the config."""
    text = bench.config_path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    bench.config_path.write_text(text)


def second_provider(bench: Lab) -> None:
    """Add a provider whose credential is dead, with a policy of its own."""
    text = bench.config_path.read_text()
    provider = text[text.index("[providers.astro]") : text.index("[sinks.files]")]
    policy = text[text.index("[policies.services]") :].replace("policies.services", "policies.others")
    provider = provider.replace("providers.astro", "providers.other").replace("file:credential", "file:dead")
    text = text.replace("[policies.services]\n", '[policies.services]\nprovider = "astro"\n')
    policy = policy.replace("[policies.others]\n", '[policies.others]\nprovider = "other"\n')
    bench.config_path.write_text(text + provider + policy.replace("{token_id}", "others/{token_id}"))
    write_secret(bench.folder / "dead", "a.b.c")


def test_an_error_of_one_provider_hides_nothing_of_the_others(bench: Lab) -> None:
    """The first one's results are printed in one JSON object, the second one's error as its sentence and exit code."""
    second_provider(bench)
    due = set(bench.due_ids())
    ran = rotator(bench, "sweep", "--json")
    told = json.loads(ran.stdout)
    assert {row["token_id"] for row in told["settled"]} == due
    assert [row["provider"] for row in told["errors"]] == ["other"]
    assert (ran.returncode, "credential" in ran.stderr) == (5, True)


@pytest.mark.parametrize("command", ["plan", "status"])
def test_looking_shows_the_others_too(bench: Lab, command: str) -> None:
    """Whom an error is about is told; the document is whole, and for people the table is there."""
    second_provider(bench)
    due = set(bench.due_ids())
    ran = rotator(bench, command, "--json")
    told = json.loads(ran.stdout)
    rows = told["due"] if command == "plan" else [row for row in told["tokens"] if row["state"] == "due"]
    assert {row["token_id"] for row in rows} == due
    assert [row["provider"] for row in told["errors"]] == ["other"]
    assert (ran.returncode, "rotator: provider other: " in ran.stderr) == (5, True)
    shown = rotator(bench, command)
    assert (shown.returncode, "svc-" in shown.stdout) == (5, True)


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([Temporary("x")], 1),
        ([Temporary("x"), CredentialRejected("x")], 5),
        ([CredentialRejected("x"), ConfigError.of("x", "x")], 2),
    ],
)
def test_the_first_exit_code_of_the_contract_wins(errors: list[Temporary], code: int) -> None:
    """2 before 5 before 3 before 1, whichever provider it comes from."""
    assert exit_code([], [], errors) == code


def lose_an_answer(bench: Lab) -> str:
    """Leave one rotation open and return its token."""
    bench.sandbox.script("rotate", Fault.RESET_AFTER)
    ran = rotator(bench, "sweep", "--json")
    [row] = json.loads(ran.stdout)["unsettled"]
    return str(row["token_id"])


@pytest.mark.parametrize("command", ["sweep", "settle"])
def test_an_open_rotation_of_a_provider_that_is_gone_is_named(bench: Lab, command: str) -> None:
    """Renaming a provider hides no open rotation: it is unsettled, exit 1, and the message says what to put back."""
    token_id = lose_an_answer(bench)
    edit(bench, ("[providers.astro]", "[providers.renamed]"))
    ran = rotator(bench, command, "--json")
    [row] = json.loads(ran.stdout)["unsettled"]
    assert (ran.returncode, row["token_id"]) == (1, token_id)
    assert "put [providers.astro] back" in row["message"]


def test_status_names_an_open_rotation_of_a_provider_that_is_gone(bench: Lab) -> None:
    """It is listed as unsettled, in JSON and in the table."""
    token_id = lose_an_answer(bench)
    edit(bench, ("[providers.astro]", "[providers.renamed]"))
    rows = json.loads(rotator(bench, "status", "--json").stdout)["tokens"]
    [row] = [row for row in rows if "put [providers.astro] back" in row["message"]]
    assert (row["token_id"], row["state"]) == (token_id, "unsettled")
    assert "no longer configured" in rotator(bench, "status").stdout


def test_a_provider_without_policies_still_looks_after_what_is_open(bench: Lab) -> None:
    """Taking the last policy away from a provider does not hide its open rotations."""
    token_id = lose_an_answer(bench)
    second_provider(bench)
    write_secret(bench.folder / "dead", bench.sandbox.credential)
    text = bench.config_path.read_text()
    start, end = text.index("[policies.services]"), text.index("[providers.other]")
    bench.config_path.write_text(text[:start] + text[end:])
    for command in ("settle", "sweep"):
        ran = rotator(bench, command, "--json")
        assert token_id in {row["token_id"] for row in json.loads(ran.stdout)["unsettled"]}, ran.stderr


def test_what_would_be_ended_is_shown_and_counts_as_due(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An old member whose grace is over is in the plan, in its table, and makes --check exit 4."""
    with lab(tmp_path) as bench:
        keys = 'strategy = "overlap"\nretire = "after_grace"\ngrace = "1h"\n'
        edit(bench, ("[policies.services]\n", f"[policies.services]\n{keys}"))
        due = set(bench.due_ids())
        bench.sweep()
        assert bench.clock is not None
        bench.clock.jump(timedelta(hours=2))
        with bench.app(writing=False) as app:
            code = show_plan(app, app.policies(None), as_json=True, check_due=True)
            told = json.loads(capsys.readouterr().out)
            show_plan(app, app.policies(None), as_json=False)
    assert (code, told["due"]) == (4, [])
    assert {row["token_id"] for row in told["ending"]} == due
    assert {(row["strategy"], row["reason"], row["policy"]) for row in told["ending"]} == {
        ("overlap", "retire", "services")
    }
    shown = capsys.readouterr().out
    assert "To be ended" in shown
    assert f"0 due; {len(due)} to be ended" in shown


def test_what_would_be_ended_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal nothing is deleted before a person said yes, also where nothing is to be rotated."""
    with lab(tmp_path) as bench:
        keys = 'strategy = "overlap"\nretire = "after_grace"\ngrace = "1h"\n'
        edit(bench, ("[policies.services]\n", f"[policies.services]\n{keys}"))
        due = bench.due_ids()
        bench.sweep()
        assert bench.clock is not None
        bench.clock.jump(timedelta(hours=2))
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        with bench.app() as app:
            [report] = run(app, app.policies(None), None, ask=True)
        assert not report.confirmed
        assert all(token_id in bench.sandbox.store.tokens for token_id in due)
