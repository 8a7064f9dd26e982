"""Who gets in, who may do what, how often, and how the sandbox shows itself."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from rotator.sandbox import Sandbox
from rotator.sandbox.store import Record

PATH = "/v1/organizations/clorg0000000000000000000a/tokens"
RBAC = (403, "RBAC: access denied", "text/plain")


def seen(answer: httpx.Response) -> tuple[int, str, str]:
    return answer.status_code, answer.text, answer.headers["content-type"]


def holder(sandbox: Sandbox, scope: str, role: str) -> Record:
    rows = [row for row in sandbox.store.tokens.values() if row.scope == scope and row.roles[0].role == role]
    return rows[0]


@pytest.mark.parametrize("path", [PATH, "/no/such/path"])
def test_without_a_bearer_the_edge_refuses_before_routing(path: str, sandbox: Sandbox) -> None:
    assert seen(httpx.get(sandbox.url + path)) == RBAC
    assert seen(httpx.put(sandbox.url + path, headers={"Authorization": "Basic x"})) == RBAC


def test_the_edge_names_what_is_wrong_with_a_bearer(start, connect) -> None:
    now = [datetime(2026, 6, 1, tzinfo=UTC)]
    sandbox = start(limits=False, now=lambda: now[0])
    record = next(row for row in sandbox.store.tokens.values() if row.end_at)
    secret = sandbox.store.secret_of(record.id)
    form = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
    assert seen(connect(sandbox, "nonsense").get(PATH)) == (401, form, "text/plain")
    assert seen(connect(sandbox, "a.b.c").get(PATH)) == (401, "Jwt verification fails", "text/plain")
    forged = secret[:-4] + ("AAAA" if secret[-4:] != "AAAA" else "BBBB")
    assert seen(connect(sandbox, forged).get(PATH)) == (401, "Jwt verification fails", "text/plain")
    now[0] += timedelta(days=400)
    assert seen(connect(sandbox, secret).get(PATH)) == (401, "Jwt is expired", "text/plain")
    assert not sandbox.store.is_alive(secret)
    assert connect(sandbox).post(f"{PATH}/{record.id}/rotate").status_code == 200  # an expired target may be rotated


def test_a_rotated_away_bearer_gets_the_application_401(sandbox: Sandbox, owner: httpx.Client) -> None:
    answer = owner.post(f"{PATH}/{sandbox.store.owner_id}/rotate")
    assert answer.status_code == 200
    refused = owner.get(PATH)
    assert refused.status_code == 401
    assert refused.json()["statusCode"] == 401
    assert answer.json()["token"] == sandbox.credential


@pytest.mark.parametrize(("readers", "status"), [("all", 200), ("owners", 403)])
def test_a_token_without_rights_reads_itself_only_if_readers_are_all(readers: str, status: int, start, connect) -> None:
    sandbox = start(limits=False, readers=readers)
    record = holder(sandbox, "ORGANIZATION", "ORGANIZATION_MEMBER")
    plain = connect(sandbox, sandbox.store.secret_of(record.id))
    answer = plain.get(f"{PATH}/{record.id}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    for refused in (
        plain.get(PATH),
        plain.get(f"{PATH}/{sandbox.store.owner_id}"),
        plain.post(f"{PATH}/{record.id}/rotate"),
        plain.delete(f"{PATH}/{record.id}"),
        plain.post(PATH, json={"name": "n", "role": "ORGANIZATION_OWNER", "scope": "ORGANIZATION"}),
    ):
        assert refused.json()["statusCode"] == 403
    assert sandbox.store.rotations(record.id) == 0
    assert sandbox.store.posts(record.id) == 1


@pytest.mark.parametrize(("role", "deployments"), [("WORKSPACE_OWNER", 200), ("WORKSPACE_OPERATOR", 403)])
def test_workspace_managers_manage_their_workspace_only(role: str, deployments: int, start, connect) -> None:
    sandbox = start(tokens=90, limits=False)
    manager = holder(sandbox, "WORKSPACE", role)
    client = connect(sandbox, sandbox.store.secret_of(manager.id))
    rows = list(sandbox.store.tokens.values())

    def rotated(scope: str, own: bool) -> int:
        there = [row for row in rows if row.scope == scope and (row.workspace_id == manager.entity_id) == own]
        target = next(row for row in there if row.id != manager.id)
        return client.post(f"{PATH}/{target.id}/rotate").status_code

    assert rotated("WORKSPACE", own=True) == 200
    assert rotated("WORKSPACE", own=False) == 403
    assert rotated("DEPLOYMENT", own=True) == deployments
    assert rotated("ORGANIZATION", own=False) == 403
    listed = client.get(PATH, params={"limit": 1000}).json()["tokens"]
    assert {sandbox.store.tokens[row["id"]].workspace_id for row in listed} == {manager.entity_id}
    assert client.post(f"{PATH}/{manager.id}/rotate").status_code == 200  # itself


def test_limits_hold_per_bearer_and_method(start, connect) -> None:
    sandbox = start()
    owner, other = connect(sandbox), connect(sandbox, sandbox.store.secret_of(next(reversed(sandbox.store.tokens))))
    for method, rate, path in (("GET", 25, "/v1/organizations"), ("POST", 10, "/x"), ("DELETE", 5, "/x")):
        answers = [owner.request(method, path)]
        while answers[-1].status_code != 429 and len(answers) < 500:
            answers.append(owner.request(method, path))
        assert rate < len(answers) < 500
        assert answers[-1].headers["content-type"] == "text/plain"
        assert other.request(method, path).status_code != 429
    time.sleep(0.3)
    assert owner.delete("/x").status_code == 404


def test_the_population_follows_the_config(start) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    sandbox = start(tokens=300, due_fraction=0.4, seed=7, now=lambda: now)
    rows = [row for row in sandbox.store.tokens.values() if row.id != sandbox.store.owner_id]
    ages = [(now - (row.last_rotated_at or row.created_at)) / timedelta(days=1) for row in rows]
    assert sum(age > 90 for age in ages) == 120
    assert all(91 <= age <= 300.01 or 1 <= age <= 60.01 for age in ages)
    assert 100 < sum(row.end_at is not None for row in rows) < 200
    assert all(row.end_at > now + timedelta(days=60) for row in rows if row.end_at)
    assert {row.scope for row in rows} == {"ORGANIZATION", "WORKSPACE", "DEPLOYMENT"}
    assert len({row.workspace_id for row in rows if row.workspace_id}) == 3
    assert rows[0].name == "svc-billing-00001"
    assert start(tokens=300, due_fraction=0.4, seed=7, now=lambda: now).store.tokens == sandbox.store.tokens


def test_hostile_names_arrive_unharmed(start, connect) -> None:
    sandbox = start(tokens=100, limits=False, hostile_names=True)
    rows = connect(sandbox).get(PATH, params={"limit": 1000}).json()["tokens"]
    assert {row["id"]: row["name"] for row in rows} == {row.id: row.name for row in sandbox.store.tokens.values()}
    assert any("\n" in row["name"] for row in rows)
    assert len({row["name"] for row in rows}) < len(rows)


def test_the_servers_clock_may_be_off(start, connect) -> None:
    sandbox = start(clock_offset_s=3600, limits=False)
    date = parsedate_to_datetime(connect(sandbox).get("/v1/organizations").headers["date"])
    assert timedelta(minutes=59) < date - datetime.now(UTC) < timedelta(minutes=61)


def test_a_bearers_use_is_noted(sandbox: Sandbox, owner: httpx.Client) -> None:
    assert sandbox.store.tokens[sandbox.store.owner_id].last_used_at is None
    assert "lastUsedAt" in owner.get(f"{PATH}/{sandbox.store.owner_id}").json()


def test_the_admin_shows_digests_and_counts_but_no_secret(sandbox: Sandbox, owner: httpx.Client) -> None:
    token_id = next(reversed(sandbox.store.tokens))
    secret = owner.post(f"{PATH}/{token_id}/rotate").json()["token"]
    answer = httpx.get(f"{sandbox.url}/_sandbox/state")
    assert answer.json()["tokens"][token_id] == {
        "name": sandbox.store.tokens[token_id].name,
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "posts": 1,
        "rotations": 1,
    }
    assert secret not in answer.text
    assert httpx.get(f"{sandbox.url}/_sandbox/requests").json() == {"POST rotate 200": 1}
    assert [row[1:] for row in sandbox.requests] == [("POST", "rotate", 200, sandbox.store.owner_id)]


def test_sixty_thousand_tokens_are_seeded_and_listed_quickly(start, connect) -> None:
    began = time.monotonic()
    sandbox = start(tokens=60_000, limits=False)
    assert time.monotonic() - began < 3
    owner, began = connect(sandbox), time.monotonic()
    for offset in (0, 30_000, 59_000):
        assert owner.get(PATH, params={"limit": 1000, "offset": offset, "sorts": "createdAt:asc"}).status_code == 200
    assert time.monotonic() - began < 3


def test_the_command_serves_until_a_signal(tmp_path: Path) -> None:
    file = tmp_path / "credential"
    file.write_text("old")
    file.chmod(0o644)
    command = [sys.executable, "-m", "rotator.sandbox", "--tokens", "3", "--credential-file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert set(ready) == {"url", "organization_id", "credential_file"}
        assert os.stat(ready["credential_file"]).st_mode & 0o777 == 0o600
        headers = {"Authorization": f"Bearer {file.read_text()}"}
        assert httpx.get(f"{ready['url']}{PATH}", headers=headers).json()["totalCount"] == 4
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=5)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_the_command_says_what_is_wrong_with_its_faults(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text("[rates]\nexplode = 1\n")
    command = [sys.executable, "-m", "rotator.sandbox", "--faults", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (2, "sandbox: rates.explode: no such fault\n")
