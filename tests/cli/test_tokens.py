"""`rotator tokens` as users run it: what it shows, refuses, writes down, and where secrets go."""

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from rotator.app import Hands, by_hand
from rotator.audit import verify
from rotator.cli import by_hand as acting
from rotator.cli.keeping import Reveal, ToFile, kept
from rotator.engine.sweep import begin, plan
from rotator.errors import ConfigError, Temporary
from rotator.ports import Others
from rotator.sandbox import Fault, Faults, SandboxConfig
from rotator.sandbox.store import Draft, Record
from rotator.secret import Secret
from tests.lab import Lab, lab, write_config, write_secret

VERSIONS = ["v1", "v1beta1", "v1alpha1"]
NESTED = "v1alpha1"


def tokens(bench: Lab, *arguments: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of `rotator tokens` without a terminal."""
    return subprocess.run(
        command(bench, *arguments),
        text=True,
        check=False,
        timeout=120,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )


def command(bench: Lab, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rotator", "tokens", *arguments, "--config", str(bench.config_path)]


@contextmanager
def bench_of(folder: Path, version: str = "v1", **sandbox: object) -> Iterator[Lab]:
    """A lab in real time that speaks one generation; its policy selects svc-*."""
    folder.mkdir(exist_ok=True)
    config = SandboxConfig(**{"tokens": 6, "limits": False} | sandbox)  # type: ignore[arg-type]
    with lab(folder, sandbox=config, jumping=False) as made:
        store, homes = made.sandbox.store, ""
        if version == NESTED:
            homes = f"workspaces = {json.dumps(store.workspaces)}\ndeployments = {json.dumps(list(store.deployments))}"
        write_config(folder, made.sandbox.url, made.sandbox.organization_id, version=version, homes=homes)
        yield made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab of v1."""
    with bench_of(tmp_path / "lab") as made:
        yield made


@contextmanager
def hands_of(bench: Lab) -> Iterator[Hands]:
    """What the commands work with, in this process."""
    with by_hand(bench.config, "astro", "tokens test", [bench.events.append], bench.clock) as hands:
        yield hands


def one(bench: Lab, scope: str = "WORKSPACE") -> Record:
    """A token that the policy selects."""
    rows = bench.sandbox.store.tokens.values()
    return next(row for row in rows if row.scope == scope and row.name.startswith("svc-"))


def stranger(bench: Lab, *options: str) -> str:
    """Make a token that no policy selects, and return its id."""
    made = tokens(
        bench, "create", "by-hand", "--scope", "organization", "--role", "ORGANIZATION_MEMBER", "--json",
        "--to-file", str(bench.folder / "first"), *options,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["id"])


def posts(bench: Lab) -> int:
    """How many requests that change something arrived."""
    return sum(method in ("POST", "DELETE") for _, method, *_ in bench.sandbox.requests)


def audited(bench: Lab) -> list[str]:
    """The events of the audit file, whose chain must be whole, but for those of every command."""
    path = bench.folder / "audit.jsonl"
    assert verify(path).bad_line is None
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    return [event for event in events if event != "config_loaded"]


def everything_written(folder: Path, *, but: Path) -> bytes:
    """All bytes of all files except one."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path != but)


@pytest.mark.parametrize("scope", ["organization", "workspace", "deployment"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_life_of_a_token_by_hand(tmp_path: Path, version: str, scope: str) -> None:
    """create, get, update, rotate, delete: the provider's own fields, a live secret in its file and nowhere else."""
    with bench_of(tmp_path / "lab", version) as bench:
        store, secret, outputs = bench.sandbox.store, bench.folder / "secret", []
        home = {"workspace": store.workspaces[0], "deployment": next(iter(store.deployments))}.get(scope, "")
        where = [f"--{scope}", home] if home else []
        there = where if version == NESTED else []

        def run(*arguments: str) -> Any:
            ran = tokens(bench, *arguments, "--json")
            assert ran.returncode == 0, ran.stderr
            outputs.append(ran.stdout + ran.stderr)
            return json.loads(ran.stdout)

        role = f"{scope.upper()}_{'ADMIN' if scope == 'deployment' else 'MEMBER'}"
        words = ["--scope", scope, "--role", role, "--description", "made by hand", "--expires-in-days", "30"]
        made = run("create", "by-hand", *words, *where, "--to-file", str(secret))
        assert (made["name"], made["scope" if version == "v1" else "type"]) == ("by-hand", scope.upper())
        assert (made["description"], made["expiryPeriodInDays"]) == ("made by hand", 30)
        first = secret.read_text()
        assert store.authenticates_as(first) == made["id"]
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert run("get", made["id"], *there)["name"] == "by-hand"
        assert run("update", made["id"], *there, "--name", "renamed")["name"] == "renamed"
        assert store.tokens[made["id"]].description == "made by hand"
        rotated = run("rotate", made["id"], *there, "--yes", "--to-file", str(secret))
        second = secret.read_text()
        assert (rotated["id"], store.is_alive(first)) == (made["id"], False)
        assert store.authenticates_as(second) == made["id"]
        listed = run("list", "--scope", scope, *where)
        assert [row["name"] for row in listed if row["id"] == made["id"]] == ["renamed"]
        assert not any("token" in row for row in [made, rotated, *listed])
        seen = everything_written(bench.folder, but=secret)
        assert run("delete", made["id"], *there, "--yes")["name"] == "renamed"
        assert made["id"] not in store.tokens
        for value in (first, second):
            assert value not in "".join(outputs)
            assert value.encode() not in seen
        assert audited(bench) == [
            "token_creation_requested", "token_created", "token_update_requested", "token_updated",
            "token_rotation_requested", "token_rotated_by_hand", "token_deletion_requested", "token_deleted",
        ]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_a_role_is_changed_and_the_others_stay(tmp_path: Path, version: str) -> None:
    """--role replaces the role of the token's own scope, in every generation."""
    with bench_of(tmp_path / "lab", version) as bench:
        rows = bench.sandbox.store.tokens.values()
        token = next(row for row in rows if row.scope == "ORGANIZATION" and len(row.roles) > 1)
        ran = tokens(bench, "update", token.id, "--role", "ORGANIZATION_BILLING_ADMIN", "--description", "")
        assert ran.returncode == 0, ran.stderr
        now = bench.sandbox.store.tokens[token.id]
        assert {role.role for role in now.roles} == {"ORGANIZATION_BILLING_ADMIN", "WORKSPACE_MEMBER"}
        assert (now.name, now.description) == (token.name, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_lists_are_narrowed(tmp_path: Path, version: str) -> None:
    """By scope and by workspace; v1alpha1 names what it cannot list, and refuses to show nothing instead."""
    with bench_of(tmp_path / "lab", version) as bench:
        store = bench.sandbox.store
        space = one(bench).workspace_id

        def ids(*arguments: str) -> set[str]:
            ran = tokens(bench, "list", "--json", *arguments)
            assert ran.returncode == 0, ran.stderr
            return {row["id"] for row in json.loads(ran.stdout)}

        def expected(*scopes: str, workspace: str = "") -> set[str]:
            found = [row for row in store.tokens.values() if row.scope in scopes]
            return {row.id for row in found if workspace in ("", row.workspace_id)}

        assert ids("--scope", "organization") == expected("ORGANIZATION")
        assert ids("--scope", "workspace", "--workspace", space) == expected("WORKSPACE", workspace=space)
        if version == NESTED:
            assert ids() == expected("ORGANIZATION")
            assert "workspace tokens are left out" in tokens(bench, "list").stderr
            refused = tokens(bench, "list", "--scope", "workspace")
            assert (refused.returncode, "--workspace" in refused.stderr) == (2, True)
        else:
            assert ids() == set(store.tokens)
            assert ids("--workspace", space) >= expected("WORKSPACE", workspace=space)


def test_v1alpha1_says_that_it_needs_the_home(tmp_path: Path) -> None:
    """A workspace token without --workspace is not found, and the message says what is missing."""
    with bench_of(tmp_path / "lab", NESTED) as bench:
        token = one(bench)
        assert tokens(bench, "get", token.id, "--workspace", token.workspace_id).returncode == 0
        missing = tokens(bench, "get", token.id)
        assert (missing.returncode, "--workspace ID" in missing.stderr) == (2, True)


def test_people_get_tables_without_control_characters(tmp_path: Path) -> None:
    """Hostile names are escaped in list, get, update, delete and their log lines."""
    with bench_of(tmp_path / "lab", tokens=24, hostile_names=True) as bench:
        store = bench.sandbox.store
        hostile = next(t for t in store.tokens.values() if not t.name.isprintable())
        runs = [tokens(bench, "list"), tokens(bench, "get", hostile.id)]
        runs += [tokens(bench, "update", hostile.id, "--description", "\x1b[31m")]
        runs += [tokens(bench, "delete", hostile.id, "--yes", "--force")]
        for run in runs:
            assert run.returncode == 0, run.stderr
            assert not [c for c in run.stdout + run.stderr if ord(c) < 32 and c != "\n"]
            assert "\u202e" not in run.stdout + run.stderr
        assert hostile.name not in "".join(run.stdout + run.stderr for run in runs)


def test_reveal_shows_the_secret_alone(bench: Lab) -> None:
    """On standard output nothing else; with --json it goes to standard error, for the object never holds it."""
    token_id = stranger(bench)
    shown = tokens(bench, "rotate", token_id, "--yes", "--reveal")
    secret = shown.stdout.removesuffix("\n")
    assert bench.sandbox.store.authenticates_as(secret) == token_id
    assert secret not in shown.stderr
    again = tokens(bench, "rotate", token_id, "--yes", "--reveal", "--json")
    secret = bench.sandbox.store.secret_of(token_id)
    assert json.loads(again.stdout)["id"] == token_id
    assert secret in again.stderr.splitlines()
    assert secret not in again.stdout
    assert secret.encode() not in everything_written(bench.folder, but=bench.folder / "first")


@dataclass(frozen=True)
class Wrong:
    """A command line that must not reach the API."""

    words: tuple[str, ...]
    said: str


NEW = ("create", "n", "--role", "R")
OURS = ("rotator.toml", "rotator.key", "rotator.db", "rotator.db-wal", "rotator.db.lock", "credential", "audit.jsonl.1")


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(("rotate", "{id}", "--yes"), "--to-file"),
        Wrong(("rotate", "{id}", "--yes", "--reveal", "--to-file", "{folder}/s"), "either"),
        Wrong(("rotate", "{id}", "--reveal"), "--yes"),
        Wrong(("delete", "{id}"), "--yes"),
        Wrong(("update", "{id}"), "nothing to change"),
        Wrong((*NEW, "--scope", "organization"), "--to-file"),
        Wrong((*NEW, "--reveal"), "--scope"),
        Wrong((*NEW, "--scope", "galaxy", "--reveal"), "galaxy"),
        Wrong((*NEW, "--scope", "workspace", "--reveal"), "--workspace"),
        Wrong((*NEW, "--scope", "organization", "--workspace", "w", "--reveal"), "--workspace"),
        Wrong((*NEW, "--scope", "organization", "--expires-in-days", "0", "--reveal"), "expires-in-days"),
        Wrong(("list", "--workspace", "w", "--deployment", "d"), "--deployment"),
        Wrong(("list", "--scope", "organization", "--workspace", "w"), "--scope"),
        Wrong(("list", "--provider", "nobody"), "there are: astro"),
        Wrong(("get", "../../v1/organizations"), "path"),
        *(
            Wrong(("rotate", "{id}", "--yes", "--to-file", f"{{folder}}/{name}"), "rotator itself needs")
            for name in OURS
        ),
    ],
    ids=lambda wrong: " ".join(wrong.words),
)
def test_a_wrong_command_line_changes_nothing(bench: Lab, wrong: Wrong) -> None:
    """Exit code 2, a sentence with the option, and no request that changes anything."""
    words = [word.format(id=one(bench).id, folder=bench.folder) for word in wrong.words]
    ran = tokens(bench, *words)
    assert (ran.returncode, wrong.said in ran.stderr, posts(bench)) == (2, True, 0), ran.stderr
    assert "Traceback" not in ran.stderr


def test_several_providers_must_be_told_apart(bench: Lab) -> None:
    """Without --provider the names are listed; with it also one without policies works."""
    text = bench.config_path.read_text()
    table = text[text.index("[providers.astro]") : text.index("[sinks.files]")]
    second = table.replace("providers.astro", "providers.second")
    text = text.replace("[sinks.files]", f"{second}\n[sinks.files]")
    bench.config_path.write_text(text.replace("[policies.services]", '[policies.services]\nprovider = "astro"'))
    unsaid = tokens(bench, "list")
    assert (unsaid.returncode, "astro, second" in unsaid.stderr) == (2, True)
    assert tokens(bench, "list", "--provider", "second").returncode == 0
    assert stranger(bench, "--provider", "second") in bench.sandbox.store.tokens


def test_what_a_policy_manages_is_rotated_by_its_policy(bench: Lab) -> None:
    """rotate and delete are refused with a pointer to `rotator rotate`; --force does it; update is allowed."""
    token = one(bench)
    for words in (["rotate", token.id, "--yes", "--reveal"], ["delete", token.id, "--yes"]):
        refused = tokens(bench, *words)
        assert (refused.returncode, f"rotator rotate {token.id}" in refused.stderr) == (2, True)
        assert "services" in refused.stderr
    assert posts(bench) == 0
    assert tokens(bench, "update", token.id, "--description", "x").returncode == 0
    forced = tokens(bench, "rotate", token.id, "--yes", "--reveal", "--force")
    assert bench.sandbox.store.authenticates_as(forced.stdout.strip()) == token.id
    assert tokens(bench, "delete", token.id, "--yes", "--force").returncode == 0
    assert token.id not in bench.sandbox.store.tokens


def test_what_rotator_once_delivered_is_managed(bench: Lab) -> None:
    """Although no policy selects it any more: its sinks still hold its secret."""
    bench.sweep()
    token_id = bench.due_ids()[0] if bench.due_ids() else next(iter((bench.folder / "secrets").iterdir())).name
    bench.config_path.write_text(bench.config_path.read_text().replace("svc-*", "nothing"))
    refused = tokens(bench, "delete", token_id, "--yes")
    assert (refused.returncode, "delivered to sinks" in refused.stderr) == (2, True)


def test_a_deployment_token_whose_workspace_does_not_show_counts_as_managed(bench: Lab) -> None:
    """A look at one token does not say its workspace, so a policy that narrows workspaces may well select it."""
    token = one(bench, "DEPLOYMENT")
    text = bench.config_path.read_text()
    bench.config_path.write_text(
        text.replace('names = ["svc-*"]', f'names = ["svc-*"]\nworkspaces = ["{token.workspace_id}"]')
    )
    assert tokens(bench, "delete", token.id, "--yes").returncode == 2
    assert token.id in bench.sandbox.store.tokens


@pytest.mark.parametrize("words", [("rotate", "--reveal"), ("delete",)])
def test_our_own_credential_is_never_touched(bench: Lab, words: tuple[str, ...]) -> None:
    """Not with --force either; one sentence says why and what to do instead."""
    own = bench.sandbox.store.owner_id
    ran = tokens(bench, words[0], own, *words[1:], "--yes", "--force")
    assert (ran.returncode, posts(bench)) == (2, 0)
    assert "rotator would be locked out" in ran.stderr or "lock rotator out" in ran.stderr
    assert bench.sandbox.store.is_alive((bench.folder / "credential").read_text())


@pytest.mark.parametrize("words", [("rotate", "--reveal"), ("delete",)])
def test_the_credential_of_another_provider_is_never_touched(bench: Lab, words: tuple[str, ...]) -> None:
    """Nor is what another table works with, with --force either: that would be locked out."""
    store = bench.sandbox.store
    other = store.create(Draft("other", "ORGANIZATION", store.organization_id, "ORGANIZATION_OWNER"), store.owner_id)
    write_secret(bench.folder / "credential2", store.secret_of(other.id))
    text = bench.config_path.read_text()
    table = text[text.index("[providers.astro]") : text.index("[sinks.files]")]
    text = text.replace("[policies.services]\n", '[policies.services]\nprovider = "astro"\n')
    two = table.replace("providers.astro", "providers.two").replace("file:credential", "file:credential2")
    bench.config_path.write_text(text + two)
    ran = tokens(bench, words[0], other.id, *words[1:], "--yes", "--force", "--provider", "astro")
    assert (ran.returncode, posts(bench)) == (2, 0)
    assert "the credential that providers.two works with" in ran.stderr
    assert store.is_alive((bench.folder / "credential2").read_text())


def test_what_may_be_somebodys_credential_needs_force(bench: Lab) -> None:
    """While what another table works with cannot be read, any token may be it: only a person can know better."""
    made = stranger(bench)
    with hands_of(bench) as hands:
        unsure = replace(hands, others=lambda: Others({}, "the credential of providers.two cannot be read now"))
        token = hands.provider.find(made, "", "")
        with pytest.raises(ConfigError, match="may be what others work with: the credential of"):
            acting.refuse(unsure, token, "delete", force=False)
        acting.refuse(unsure, token, "delete", force=True)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    path.symlink_to("elsewhere")


def no_folder(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize("thing", [a_folder, a_link, no_folder])
def test_a_file_that_cannot_be_written_is_found_before_the_call(bench: Lab, thing: Callable[[Path], None]) -> None:
    """create and rotate send nothing, and name the path; nothing was announced either."""
    token_id, target = stranger(bench), bench.folder / "target" / "secret"
    target.parent.mkdir()
    thing(target)
    sent, said = posts(bench), audited(bench)
    new = ["create", "n", "--scope", "organization", "--role", "ORGANIZATION_MEMBER"]
    for words in ([*new], ["rotate", token_id, "--yes"]):
        ran = tokens(bench, *words, "--to-file", str(target))
        assert (ran.returncode, str(target) in ran.stderr) == (2, True), ran.stderr
    assert (posts(bench), audited(bench)) == (sent, said)
    assert bench.sandbox.store.is_alive((bench.folder / "first").read_text())


def test_without_an_audit_line_nothing_is_done(bench: Lab) -> None:
    """The line that announces the step must be on disk before the call."""
    token_id = stranger(bench)
    sent = posts(bench)
    (bench.folder / "audit.jsonl").rename(bench.folder / "moved.jsonl")
    (bench.folder / "audit.jsonl").mkdir()
    for words in (["rotate", token_id, "--yes", "--reveal"], ["delete", token_id, "--yes"]):
        ran = tokens(bench, *words)
        assert (ran.returncode, "audit" in ran.stderr) == (2, True), ran.stderr
    assert posts(bench) == sent


def test_the_announcement_is_on_disk_before_the_call(bench: Lab) -> None:
    """Whatever the API answers, the audit file already says what is being asked of it."""
    token_id, seen = stranger(bench), []
    with hands_of(bench) as hands:
        watched = replace(hands, provider=Before(hands.provider, "raw_rotate", lambda: seen.append(audited(bench)[-1])))
        acting.rotate(watched, hands.provider.find(token_id), ToFile(bench.folder / "s"), force=False)
    assert seen == ["token_rotation_requested"]


@dataclass
class Before:
    """A provider that does something before, or after, one of its calls; otherwise the real one."""

    real: Any
    at: str
    act: Callable[[], object]
    after: bool = False
    done: bool = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.real, name)
        if name != self.at or self.done:
            return method

        def call(*arguments: Any, **named: Any) -> Any:
            if not self.after:
                self.act()
            self.done = True
            result = method(*arguments, **named)
            if self.after:
                self.act()
            return result

        return call


def test_a_rotate_without_an_answer_says_what_it_may_have_done(bench: Lab) -> None:
    """It was rotated: the old secret is dead, nobody holds the new one, and rotating again heals it; exit 1."""
    token_id = stranger(bench)
    bench.sandbox.script("rotate", Fault.RESET_AFTER, token_id)
    ran = tokens(bench, "rotate", token_id, "--yes", "--to-file", str(bench.folder / "second"))
    assert ran.returncode == 1
    assert "WAS ROTATED" in ran.stderr
    assert f"rotator tokens rotate {token_id}" in ran.stderr
    assert not (bench.folder / "second").exists()
    assert bench.sandbox.store.posts(token_id) == 1
    assert audited(bench)[-2:] == ["token_rotation_requested", "token_request_in_doubt"]
    assert bench.sandbox.store.secret_of(token_id) not in ran.stdout + ran.stderr
    healed = tokens(bench, "rotate", token_id, "--yes", "--to-file", str(bench.folder / "second"))
    assert healed.returncode == 0
    assert bench.sandbox.store.authenticates_as((bench.folder / "second").read_text()) == token_id


def test_a_rotate_that_may_still_take_effect_says_so(bench: Lab) -> None:
    """No rotation is visible, which proves nothing yet: look again, do not repeat by reflex."""
    token_id = stranger(bench)
    bench.sandbox.script("rotate", Fault.RESET_BEFORE, token_id)
    ran = tokens(bench, "rotate", token_id, "--yes", "--reveal")
    assert (ran.returncode, "may have been rotated" in ran.stderr) == (1, True)
    assert f"rotator tokens get {token_id}" in ran.stderr


def test_a_create_without_an_answer_says_where_to_look(bench: Lab) -> None:
    """The token may exist and nobody holds its secret; exit 1."""
    bench.sandbox.script("create", Fault.RESET_AFTER)
    new = ["create", "orphan", "--scope", "organization", "--role", "ORGANIZATION_MEMBER", "--reveal"]
    ran = tokens(bench, *new)
    assert (ran.returncode, "rotator tokens list" in ran.stderr, ran.stdout) == (1, True, "")
    assert audited(bench) == ["token_creation_requested", "token_request_in_doubt"]


def test_a_refused_call_is_recorded_and_explained(bench: Lab) -> None:
    """A role that does not exist: exit 2, what to check, and the audit says that it failed."""
    ran = tokens(bench, "create", "n", "--scope", "organization", "--role", "NO_SUCH", "--reveal")
    assert (ran.returncode, "--role" in ran.stderr) == (2, True)
    assert audited(bench) == ["token_creation_requested", "token_request_failed"]


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.ERROR_502_AFTER, Fault.THROTTLE_SECONDS])
def test_a_delete_is_repeated_until_it_is_known(bench: Lab, fault: Fault) -> None:
    """It is idempotent: an answer that was lost does not matter."""
    token_id = stranger(bench)
    bench.sandbox.script("delete", fault, token_id)
    assert tokens(bench, "delete", token_id, "--yes").returncode == 0
    assert token_id not in bench.sandbox.store.tokens


@dataclass
class Full:
    """A place that was proven and fails all the same."""

    location: str = "the full disk"
    offered: list[Secret] = field(default_factory=list)

    def prove(self) -> None:
        """It looks good."""

    def keep(self, secret: Secret) -> None:
        """It is not."""
        self.offered.append(secret)
        raise Temporary("the disk is full")


def test_a_secret_whose_file_fails_after_the_call_is_saved(bench: Lab) -> None:
    """It goes to a new 0600 file of the state folder, which is named to people and in the audit."""
    token_id = stranger(bench)
    with hands_of(bench) as hands:
        done = acting.rotate(hands, hands.provider.find(token_id), Full(), force=False)
    saved = Path(done.location)
    assert (saved.parent, stat.S_IMODE(saved.stat().st_mode)) == (bench.folder, 0o600)
    assert bench.sandbox.store.authenticates_as(saved.read_text()) == token_id
    assert str(saved) in done.problem
    assert "the disk is full" in done.problem
    last = json.loads((bench.folder / "audit.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["location"]) == ("token_rotated_by_hand", str(saved))


def test_a_secret_that_nobody_holds_is_said_to_be_lost(tmp_path: Path) -> None:
    """Neither place nor refuge: no text holds the secret, and the way out is named."""
    full = Full()
    where = kept(full, Secret("canary-5f3c"), tmp_path / "missing")
    assert where.location == ""
    assert "rotate the token again" in where.problem
    assert "canary" not in where.problem
    closed = StringIO()
    closed.close()
    saved = kept(Reveal(closed), Secret("canary-5f3c"), tmp_path)
    assert Path(saved.location).read_text() == "canary-5f3c"
    assert "canary" not in saved.problem


def test_a_secret_that_cannot_be_shown_is_saved(bench: Lab) -> None:
    """Standard output is full: exit 1, and the secret is in a file that is named."""
    token_id = stranger(bench)
    with Path("/dev/full").open("w") as full:
        ran = tokens(bench, "rotate", token_id, "--yes", "--reveal", stdout=full)
    assert ran.returncode == 1, ran.stderr
    (saved,) = bench.folder.glob("rescued-secret-*")
    assert str(saved) in ran.stderr
    assert bench.sandbox.store.authenticates_as(saved.read_text()) == token_id
    assert saved.read_text() not in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_waits_for_the_secret(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and a closed terminal between the call and the file: the secret is in it, exit 130."""
    with bench_of(tmp_path / "lab", faults=Faults(latency_s=1.0)) as bench:
        token_id, target = stranger(bench), bench.folder / "second"
        bench.sandbox.script("rotate", Fault.LATENCY, token_id)
        words = command(bench, "rotate", token_id, "--yes", "--to-file", str(target))
        # whoever runs the tests in the background has them ignore Ctrl-C, or a hang-up, and so would the child
        heard = partial(signal.signal, number, signal.SIG_DFL)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)  # noqa: PLW1509
        while process.poll() is None and not bench.sandbox.store.posts(token_id):
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert bench.sandbox.store.authenticates_as(target.read_text()) == token_id


@pytest.mark.parametrize(("answer", "is_done"), [("n", False), ("y", True)])
@pytest.mark.parametrize("verb", ["rotate", "delete"])
def test_a_terminal_is_asked(bench: Lab, verb: str, answer: str, is_done: bool) -> None:
    """No changes nothing and is exit 0; yes does it."""
    token_id = stranger(bench)
    before = bench.sandbox.store.tokens[token_id].jti
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    extra = ["--to-file", str(bench.folder / "second")] if verb == "rotate" else []
    ran = tokens(bench, verb, token_id, *extra, stdin=theirs)
    os.close(ours)
    os.close(theirs)
    now = bench.sandbox.store.tokens.get(token_id)
    assert ran.returncode == 0, ran.stderr
    assert ("by-hand" in ran.stderr, now is None or now.jti != before) == (True, is_done)


def test_no_sweep_rotates_what_is_held(bench: Lab) -> None:
    """The held token is left alone, the others are rotated; the next sweep takes it."""
    due = bench.due_ids()
    with hands_of(bench) as hands:
        token = hands.provider.find(due[0])
        with hands.journal.hold("astro", token.id):
            bench.sweep()
            assert [bench.sandbox.store.posts(i) for i in due] == [0, *[1] * (len(due) - 1)]
            with pytest.raises(Temporary, match="by hand"):
                acting.rotate(hands, token, ToFile(bench.folder / "s"), force=True)
    bench.sweep()
    assert all(bench.sandbox.store.posts(i) == 1 for i in due)


def test_nothing_is_done_by_hand_while_a_rotation_is_open(bench: Lab) -> None:
    """rotate, delete and update say how to finish it first, also with --force."""
    token_id = bench.due_ids()[0]
    bench.sandbox.script("rotate", Fault.RESET_AFTER, token_id)
    bench.sweep()
    sent = posts(bench)
    refused = tokens(bench, "delete", token_id, "--yes")
    assert (refused.returncode, "rotator rotate" in refused.stderr) == (2, True)
    for words in (
        ["rotate", "--yes", "--reveal", "--force"],
        ["delete", "--yes", "--force"],
        ["update", "--name", "x"],
    ):
        ran = tokens(bench, words[0], token_id, *words[1:])
        assert (ran.returncode, "rotator settle" in ran.stderr) == (1, True), ran.stderr
    assert posts(bench) == sent


@pytest.mark.parametrize("is_known", [False, True])
def test_a_sweep_that_looked_before_does_not_rotate_after(bench: Lab, is_known: bool) -> None:
    """A person rotates by hand between a sweep's last look and its intent: the sweep yields, the secret lives."""
    token_id, target = bench.due_ids()[0], bench.folder / "mine"
    if is_known:
        assert tokens(bench, "update", token_id, "--description", "x").returncode == 0

    def meanwhile() -> None:
        with hands_of(bench) as hands:
            acting.rotate(hands, hands.provider.find(token_id), ToFile(target), force=True)

    with bench.app() as app:
        desk = app.desks[0]
        candidate = next(row for row in plan(desk, desk.policies).due if row.token.id == token_id)
        racing = replace(desk, provider=Before(desk.provider, "get", meanwhile, after=True))
        result = begin(racing, candidate)
    assert (result.outcome, result.posted) == (None, False)
    assert bench.sandbox.store.posts(token_id) == 1
    assert bench.sandbox.store.authenticates_as(target.read_text()) == token_id


def test_hands_at_once_never_lose_a_secret(bench: Lab) -> None:
    """Eight rotate the same token at the same time: each either has a secret of its own or was told to wait."""
    token_id, told = stranger(bench), []

    def work(number: int) -> None:
        with hands_of(bench) as hands:
            try:
                acting.rotate(hands, hands.provider.find(token_id), ToFile(bench.folder / f"w{number}"), force=False)
            except Temporary as error:
                told.append(error.message)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = [path.read_text() for path in bench.folder.glob("w*")]
    assert len(written) + len(told) == 8
    assert bench.sandbox.store.posts(token_id) == len(written)
    assert [bench.sandbox.store.is_alive(secret) for secret in written].count(True) == 1


def test_a_token_that_became_another_is_not_touched(bench: Lab) -> None:
    """Renamed between the question and the answer: a person said yes to something else."""
    token_id = stranger(bench)
    with hands_of(bench) as hands:
        token = replace(hands.provider.find(token_id), name="what the person saw")
        with pytest.raises(Temporary, match="changed"):
            acting.delete(hands, token, force=False)
    assert token_id in bench.sandbox.store.tokens
