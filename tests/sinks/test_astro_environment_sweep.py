"""The whole way: `rotator sweep` rotates the token of a Deployment and puts it into that Deployment."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.sandbox import Fault, SandboxConfig
from rotator.sandbox.store import Draft, Record
from tests.cli.running import rotator
from tests.lab import Lab, lab, write_secret

SINK = """
[sinks.files]
type = "astro_environment"
organization_id = "{organization}"
credential = "file:sink-credential"
base_url = "{url}"
timeout = "2s"
"""
DELIVER = """sink = "files"
kind = "deployment_variable"
key = "ASTRO_API_TOKEN"
deployment_id = "{deployment_id}"
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """Tokens of Deployments, all due, each delivered to its own Deployment."""
    sandbox = SandboxConfig(tokens=6, limits=False, due_fraction=1.0)
    with lab(tmp_path, sandbox=sandbox, jumping=False, scopes='"deployment"') as made:
        store = made.sandbox.store
        draft = Draft("sink", "ORGANIZATION", store.organization_id, "ORGANIZATION_OWNER")
        write_secret(tmp_path / "sink-credential", store.secret_of(store.create(draft, store.owner_id).id))
        text = made.config_path.read_text()
        ours = SINK.format(organization=store.organization_id, url=made.sandbox.url)
        text = text.replace('\n[sinks.files]\ntype = "file"\ndirectory = "secrets"\n', ours)
        made.config_path.write_text(text.replace('sink = "files"\npath = "{token_id}"\n', DELIVER))
        yield made


def rotated(bench: Lab) -> list[Record]:
    """The tokens of Deployments."""
    return [row for row in bench.sandbox.store.tokens.values() if row.scope == "DEPLOYMENT"]


def held(bench: Lab, token: Record) -> str:
    """What the token's Deployment has, empty if nothing."""
    return bench.sandbox.environment.deployments[token.entity_id].value("ASTRO_API_TOKEN") or ""


def test_a_token_is_rotated_into_its_deployment(bench: Lab) -> None:
    """check proves it, sweep does it, the Deployment holds the live secret, and nobody else reads it anywhere."""
    assert rotator(bench, "check", "--online").returncode == 0
    run = rotator(bench, "sweep", "--json")
    assert run.returncode == 0, run.stderr
    tokens = rotated(bench)
    assert {row["token_id"] for row in json.loads(run.stdout)["settled"]} == {token.id for token in tokens}
    for token in tokens:
        deployment = bench.sandbox.environment.deployments[token.entity_id]
        assert bench.sandbox.store.authenticates_as(held(bench, token)) == token.id
        assert (deployment.value("DB_PASSWORD") or "").startswith("hunter-")
        assert deployment.restarts == 1
        written = b"".join(path.read_bytes() for path in bench.folder.rglob("*") if path.is_file())
        assert held(bench, token).encode() not in written + (run.stdout + run.stderr).encode()
    again = rotator(bench, "sweep", "--json")
    assert (again.returncode, json.loads(again.stdout)["rotated"]) == (0, [])
    assert {d.restarts for d in bench.sandbox.environment.deployments.values()} <= {0, 1}


def test_a_deployment_that_cannot_be_written_for_a_while_gets_it_later(bench: Lab) -> None:
    """The secret stays sealed while the API fails, and the next sweep delivers it: no second rotation."""
    for _ in range(8):
        bench.sandbox.script("deployment_update", Fault.ERROR_500)
    assert rotator(bench, "sweep").returncode == 1
    assert rotator(bench, "settle").returncode == 0
    for token in rotated(bench):
        assert bench.sandbox.store.authenticates_as(held(bench, token)) == token.id
        assert bench.sandbox.store.rotations(token.id) == 1


def test_the_sinks_own_credential_is_not_rotated_from_under_it(bench: Lab) -> None:
    """The sink's credential is left alone by a policy that would end it, and the plan says whose it is."""
    token = rotated(bench)[0]
    write_secret(bench.folder / "sink-credential", bench.sandbox.store.secret_of(token.id))
    run = rotator(bench, "sweep", "--json")
    assert json.loads(run.stdout)["skipped_counts"]["own_credential"] == 1
    assert "the credential that sinks.files works with" in rotator(bench, "plan", "--json").stdout
    assert bench.sandbox.store.posts(token.id) == 0
