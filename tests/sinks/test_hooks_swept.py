"""Whole sweeps that deliver to a webhook and to a program: what cannot be read settles too, and is not lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.events import EventName
from tests.lab import Lab, lab
from tests.servers.webhook import Receiver, serving
from tests.sinks.test_exec import STORE, program
from tests.sinks.test_webhook import KEYS, spelt

FILES = """
[sinks.files]
type = "file"
directory = "secrets"
"""
HOOKS = """
[sinks.hooks]
type = "webhook"
url = "{url}/in"
signing_key = ["file:signing-key"]
timeout = "2s"
verify = {verify}

[sinks.programs]
type = "exec"
command = ["{program}"]
preflight = true
verify = {verify}
"""
TO_FILES = """
[[policies.services.deliver]]
sink = "files"
path = "{token_id}"
"""
TO_HOOKS = """
[[policies.services.deliver]]
sink = "hooks"
key = "{token_id}"

[[policies.services.deliver]]
sink = "programs"
key = "{token_id}"
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """One that knows our key."""
    with serving(Receiver(tmp_path / "hooks.json", KEYS[:1])) as serves:
        yield serves


@pytest.fixture(params=["true", "false"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, receiver: Receiver) -> Iterator[Lab]:
    """A lab whose policy delivers to both, with or without reading back."""
    (tmp_path / "bin").mkdir()
    with lab(tmp_path) as made:
        (tmp_path / "signing-key").write_text(spelt(KEYS[0]))
        hooks = HOOKS.format(url=receiver.url, program=program(tmp_path / "bin", STORE), verify=request.param)
        text = made.config_path.read_text()
        assert FILES in text
        assert TO_FILES in text
        made.config_path.write_text(text.replace(FILES, hooks).replace(TO_FILES, TO_HOOKS))
        yield made


def secrets(bench: Lab, receiver: Receiver) -> tuple[dict[str, str], dict[str, str]]:
    """Return what receiver and program hold, by token id."""
    stored = json.loads((bench.folder / "bin" / "store.json").read_text())
    by_hook = {name.removeprefix("/in#"): held["secret"] for name, held in receiver.held().items()}
    return by_hook, {name: held["secret"] for name, held in stored.items()}


def test_a_sweep_settles_with_both(bench: Lab, receiver: Receiver) -> None:
    """Every due token is rotated once, and both hold the secret that the API accepts."""
    due = bench.due_ids()
    assert due
    bench.sweep()
    by_hook, by_program = secrets(bench, receiver)
    assert by_hook == by_program
    assert sorted(by_hook) == sorted(due)
    assert by_hook == {token_id: bench.sandbox.store.secret_of(token_id) for token_id in due}
    settled = [event for event in bench.events if event.name is EventName.ROTATION_SETTLED]
    assert len(settled) == len(due)
    everything = json.dumps([str(event) for event in bench.events])
    assert not [secret for secret in by_hook.values() if secret in everything]


def test_a_receiver_that_forgot_our_key_rotates_nothing(bench: Lab, receiver: Receiver) -> None:
    """The preflight finds it, so no token is rotated for which a sink would have no secret."""
    receiver.keys = []
    before = {token.id: token.last_rotated_at for token in bench.sandbox.store.tokens.values()}
    bench.sweep()
    assert {token.id: token.last_rotated_at for token in bench.sandbox.store.tokens.values()} == before
    assert not receiver.held()


def test_an_answer_that_was_lost_is_settled_by_the_next_sweep(bench: Lab, receiver: Receiver) -> None:
    """A delivery that took effect without an answer is sent again with the same id, and the token is rotated once."""
    due = bench.due_ids()
    answer = receiver.answer
    lost: list[str] = []

    def losing(request):  # type: ignore[no-untyped-def]
        if request.event["type"] == "token.deliver" and not lost:
            lost.append(request.headers["webhook-id"])
            answer(request)
            return 502, b"<html>"
        return answer(request)

    receiver.answer = losing  # type: ignore[method-assign]
    for _ in range(3):
        bench.sweep()
    by_hook, by_program = secrets(bench, receiver)
    assert by_hook == by_program
    assert sorted(by_hook) == sorted(due)
    delivered = [seen.headers["webhook-id"] for seen in receiver.seen if seen.event["type"] == "token.deliver"]
    assert delivered.count(lost[0]) == 2
    assert len(set(delivered)) == len(due)
