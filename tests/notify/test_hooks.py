"""Hooks: real programs and a real receiver are told of settled rotations, and asked before one begins."""

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.errors import ConfigError
from rotator.events import Event, EventName
from tests.lab import Lab, lab, write_secret
from tests.notify.bench import add, add_channel, tell
from tests.servers.listener import listening

HOOKS = "[[policies.services.hooks]]"
KEY = base64.b64encode(b"k" * 32).decode()


def program(folder: Path, code: int = 0, extra: str = "") -> str:
    """Write a program that appends what it reads to `told`, and return its path as TOML."""
    path = folder / "hook.sh"
    path.write_text(f'#!/bin/sh\ncat >> "{folder}/told"\nenv > "{folder}/env"\n{extra}\nexit {code}\n')
    path.chmod(0o700)
    return f'["{path}", "argument"]'


def told(folder: Path) -> list[dict[str, object]]:
    """Return what the program was told, call by call."""
    path = folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def secrets_of(bench: Lab) -> list[str]:
    """Return every secret that was delivered."""
    return [path.read_text() for path in (bench.folder / "secrets").iterdir()]


def named(bench: Lab, name: EventName) -> list[Event]:
    """Return what was emitted under a name."""
    return [event for event in bench.events if event.name is name]


def test_a_program_is_told_of_settled_rotations(tmp_path: Path) -> None:
    """Once, on standard input, of every settled token with its places, and neither there nor around it of a secret."""
    with lab(tmp_path) as bench:
        add(bench, HOOKS, on='"settled"', exec=program(tmp_path))
        due = bench.due_ids()
        bench.sweep()
        with bench.app() as app:
            tell(app)
            tell(app, app.clock.now() + timedelta(days=1))
        (call,) = told(tmp_path)
        shown = (tmp_path / "told").read_text() + (tmp_path / "env").read_text() + repr(bench.events)
        assert not [secret for secret in secrets_of(bench) if secret in shown]
    rotations = call["data"]["rotations"]  # type: ignore[index]
    assert call["type"] == "rotation.settled"
    assert sorted(one["token_id"] for one in rotations) == sorted(due)
    assert {one["reason"] for one in rotations} == {"max_age"}
    assert all(one["places"] == [{"sink": "files", "location": one["places"][0]["location"], "required": True}]
               for one in rotations)  # fmt: skip
    ours = [line for line in (tmp_path / "env").read_text().splitlines() if line.startswith("ROTATOR_")]
    assert ours == ["ROTATOR_EVENT=rotation.settled"]
    (ran,) = named(bench, EventName.HOOK_RAN)
    assert (ran.hook, ran.policy) == ("services-1", "services")
    assert ran.duration_s is not None


def test_a_program_that_fails_is_run_again_and_given_up(tmp_path: Path) -> None:
    """It gets the same id each time, with backoff; after a day it is given up, and somebody is told. Nothing failed."""
    with lab(tmp_path) as bench, listening() as listener:
        add(bench, HOOKS, on='"settled"', exec=program(tmp_path, 3), name='"restart"')
        add_channel(bench, listener, group_for='"0s"')
        assert {result.outcome for result in bench.sweep().results} == {"settled"}
        with bench.app() as app:
            again = tell(app)
            assert again is not None
            assert tell(app, again - timedelta(seconds=1)) == again
            tell(app, again)
            tell(app, again + timedelta(hours=25))
            tell(app, again + timedelta(hours=30))
    calls = told(tmp_path)
    assert len(calls) == 3
    assert len({call["id"] for call in calls}) == 1
    assert "given up" in named(bench, EventName.HOOK_FAILED)[-1].message
    assert "a hook was given up: restart" in listener.messages[-1]


def test_debounce_waits_for_the_last(tmp_path: Path) -> None:
    """Rotations that settle within the debounce are told together, and not before it is over."""
    with lab(tmp_path) as bench:
        add(bench, HOOKS, on='"settled"', exec=program(tmp_path), debounce='"1m"')
        bench.sweep()
        with bench.app() as app:
            due = tell(app)
            assert due is not None
            assert due > app.clock.now()
            assert told(tmp_path) == []
            tell(app, due)
        assert len(told(tmp_path)) == 1


def test_a_receiver_gets_a_signed_request(tmp_path: Path) -> None:
    """The signature is that of Standard Webhooks over id, time and body, and a redirect is a failure."""
    with lab(tmp_path) as bench, listening() as listener:
        write_secret(tmp_path / "key", f"whsec_{KEY}")
        url = f'"http://127.0.0.1:{listener.port}/hook"'
        add(bench, HOOKS, on='"settled"', webhook=url, signing_key='"file:key"')
        bench.sweep()
        listener.status = 302
        with bench.app() as app:
            again = tell(app)
            listener.status = 204
            tell(app, again)
    first, second = listener.headers
    body = json.dumps(listener.seen[1], separators=(",", ":")).encode()
    signed = b".".join((second["webhook-id"].encode(), second["webhook-timestamp"].encode(), body))
    mac = hmac.new(base64.b64decode(KEY), signed, hashlib.sha256).digest()
    assert second["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
    assert first["webhook-id"] == second["webhook-id"]
    assert [len(named(bench, name)) for name in (EventName.HOOK_FAILED, EventName.HOOK_RAN)] == [1, 1]
    assert KEY not in repr(bench.events)


def test_a_kill_between_settling_and_telling_loses_nothing(tmp_path: Path) -> None:
    """A sweep that is killed as soon as its tokens have settled has its hook run by the next process."""
    with lab(tmp_path, jumping=False) as bench:
        add(bench, HOOKS, on='"settled"', exec=program(tmp_path))
        due = bench.due_ids()
        script = (
            "import os, signal, sys, pathlib\n"
            "from rotator.app import opened\n"
            "from rotator.config import load\n"
            "from rotator.engine.sweep import sweep\n"
            "with opened(load(pathlib.Path(sys.argv[1])), 'test', [], writing=True) as app:\n"
            "    sweep(app.desks[0], app.desks[0].policies, None, lambda _: True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        run = subprocess.run([sys.executable, "-c", script, str(bench.config_path)], cwd=os.getcwd(), check=False)
        assert run.returncode == -signal.SIGKILL
        assert told(tmp_path) == []
        run = rotator("settle", bench)
        assert run.returncode == 0, run.stderr
    (call,) = told(tmp_path)
    assert sorted(one["token_id"] for one in call["data"]["rotations"]) == sorted(due)  # type: ignore[index]


def rotator(command: str, bench: Lab, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line."""
    line = [sys.executable, "-m", "rotator", command, "--config", str(bench.config_path), *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)


def test_a_sweep_tells_before_it_ends(tmp_path: Path) -> None:
    """`rotator sweep` runs its hooks and sends its news at its end, without waiting for more."""
    with lab(tmp_path, jumping=False) as bench, listening() as listener:
        add(bench, HOOKS, on='"settled"', exec=program(tmp_path), debounce='"1h"')
        add_channel(bench, listener)
        run = rotator("sweep", bench, "--yes", "--json")
        assert run.returncode == 0, run.stderr
        assert len(told(tmp_path)) == 1
        assert listener.seen == []  # all is well


def test_a_dead_channel_changes_no_exit_code(tmp_path: Path) -> None:
    """What a sweep could not tell is logged, and told by the next one: here, a paused token that will expire."""
    paused = '1\npaused_until = 2099-01-01T00:00:00Z\npause_reason = "a freeze"'
    with lab(tmp_path, jumping=False, brake=paused) as bench, listening() as listener:
        add_channel(bench, listener)
        token = next(one for one in bench.sandbox.store.tokens.values() if one.name.startswith("svc-"))
        token.end_at = datetime.now(UTC) + timedelta(days=13)
        listener.status = 500
        run = rotator("sweep", bench, "--yes", "--json")
        assert (run.returncode, len(listener.seen)) == (0, 1), run.stderr
        assert "notification_failed" in run.stderr
        assert "canary" not in run.stderr + run.stdout
        listener.status = 200
        assert rotator("sweep", bench, "--yes", "--json").returncode == 0
        assert rotator("sweep", bench, "--yes", "--json").returncode == 0
    assert len(listener.seen) == 2
    assert listener.messages[1].startswith(f"will expire, and rotator will not rotate it: {token.name} ({token.id}")
    assert "a freeze" in listener.messages[1]


def test_a_dead_credential_is_told_by_the_sweep_that_finds_it(tmp_path: Path) -> None:
    """Where nothing can be listed any more, `rotator sweep` still tells why, and exits as it would."""
    with lab(tmp_path, jumping=False) as bench, listening() as listener:
        add_channel(bench, listener)
        write_secret(tmp_path / "credential", (tmp_path / "credential").read_text()[:-4] + "AAAA")
        run = rotator("sweep", bench, "--yes", "--json")
    assert run.returncode == 5, run.stderr
    (message,) = listener.messages
    assert message.startswith("rotator's own credential is dead: astro")


@pytest.mark.parametrize(
    ("code", "on_failure", "reason_is_urgent", "is_held"),
    [
        (0, "hold", False, False),
        (1, "hold", False, True),
        (1, "proceed", False, True),  # it was asked, and said no
        (1, "proceed", True, True),
        (127, "hold", False, True),  # it could not be asked
        (127, "proceed", False, False),
        (127, "hold", True, False),  # a broken hook must not be what lets a token expire
    ],
)
def test_a_veto(tmp_path: Path, code: int, on_failure: str, reason_is_urgent: bool, is_held: bool) -> None:
    """What a program says before the first POST decides, and what holds if it cannot be asked."""
    with lab(tmp_path) as bench:
        add(bench, HOOKS, on='"before_rotate"', exec=program(tmp_path, code), on_failure=f'"{on_failure}"')
        due = bench.due_ids()
        if reason_is_urgent:
            for token_id in due:
                bench.sandbox.store.tokens[token_id].end_at = bench.clock.now() + timedelta(hours=20)  # type: ignore[union-attr]
        report = bench.sweep()
        rotated = [one for one in due if bench.delivered(one)]
    assert bool(rotated) is not is_held
    assert len(told(tmp_path)) == len(due)
    call = told(tmp_path)[0]
    assert call["type"] == "rotation.before"
    assert call["data"]["reason"] == ("emergency" if reason_is_urgent else "max_age")  # type: ignore[index]
    assert [result.held for result in report.results] == [is_held] * len(due)
    assert len(named(bench, EventName.ROTATION_VETOED)) == (len(due) if is_held else 0)
    assert not (is_held and named(bench, EventName.ROTATION_INTENDED))


def test_a_held_token_is_exit_1(tmp_path: Path) -> None:
    """A sweep whose tokens a hook holds back says so and exits 1; so does `rotate`, which asks once."""
    with lab(tmp_path, jumping=False) as bench:
        add(bench, HOOKS, on='"before_rotate"', exec=program(tmp_path, 1))
        due = bench.due_ids()
        run = rotator("sweep", bench, "--yes", "--json")
        assert run.returncode == 1, run.stderr
        assert [row["token_id"] for row in json.loads(run.stdout)["held"]] != []
        count = len(told(tmp_path))
        assert rotator("rotate", bench, due[0]).returncode == 1
        assert len(told(tmp_path)) == count + 1


def test_a_leak_asks_nobody(tmp_path: Path) -> None:
    """A leaked secret is ended whatever a hook would say."""
    with lab(tmp_path, jumping=False) as bench:
        add(bench, HOOKS, on='"before_rotate"', exec=program(tmp_path, 1))
        due = bench.due_ids()
        assert rotator("rotate", bench, due[0], "--leaked").returncode == 0
        assert told(tmp_path) == []
        assert bench.delivered(due[0])


def test_a_veto_that_hangs_is_bounded(tmp_path: Path) -> None:
    """A program that does not end is killed after its timeout, and holds."""
    with lab(tmp_path) as bench:
        add(bench, HOOKS, on='"before_rotate"', exec=program(tmp_path, 0, "sleep 60"), timeout='"1s"')
        report = bench.sweep()
    assert all(result.held and "took too long" in result.message for result in report.results)


@pytest.mark.parametrize(
    ("keys", "path", "words"),
    [
        ({"on": '"settled"'}, "hooks.0", "either exec or webhook"),
        ({"on": '"settled"', "exec": '["sh"]', "webhook": '"https://x.example"'}, "hooks.0", "either exec or webhook"),
        ({"on": '"settled"', "exec": '["./hook"]'}, "hooks.0.exec", "absolute path"),
        ({"on": '"settled"', "webhook": '"http://x.example"', "signing_key": '"env:K"'}, "hooks.0.webhook", "https"),
        ({"on": '"settled"', "webhook": '"https://x.example"'}, "hooks.0.webhook", ""),
        ({"on": '"settled"', "exec": '["sh"]', "on_failure": '"proceed"'}, "hooks.0.on_failure", "before_rotate"),
        ({"on": '"before_rotate"', "exec": '["sh"]', "debounce": '"1s"'}, "hooks.0.debounce", "settled"),
        ({"on": '"never"', "exec": '["sh"]'}, "hooks.0.on", "settled"),
        (
            {"on": '"settled"', "webhook": '"https://x.example"', "signing_key": '"vault:a/b#c"'},
            "hooks.0.signing_key",
            "env:",
        ),
    ],
)
def test_a_wrong_hook_is_refused(tmp_path: Path, keys: dict[str, str], path: str, words: str) -> None:
    """Every mistake in a hook's table is a config error with its place."""
    with lab(tmp_path) as bench:
        add(bench, HOOKS, **keys)
        with pytest.raises(ConfigError) as raised:
            _ = bench.config
    (problem,) = raised.value.problems
    assert problem.path.endswith(path)
    assert words in problem.message


def test_a_call_that_may_have_been_made_gets_no_more(tmp_path: Path) -> None:
    """What settles while a call is to be repeated is told by another call, so that an id always means the same."""
    with lab(tmp_path) as bench:
        add(bench, HOOKS, on='"settled"', exec=program(tmp_path, 1))
        bench.sweep()
        with bench.app() as app:
            tell(app)
        assert bench.clock is not None
        bench.clock.jump(timedelta(days=92))
        assert bench.sweep().results
        program(tmp_path, 0)
        with bench.app() as app:
            tell(app, flush=True)
    first, again, other = told(tmp_path)
    assert first == again
    assert first["id"] != other["id"]
