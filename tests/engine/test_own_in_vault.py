"""Our own credential and the sealing key, kept in Vault."""

import base64
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.errors import ConfigError, Temporary
from rotator.model import Outcome, Skip, Strategy
from rotator.sandbox.store import Draft
from tests.lab import Lab, lab
from tests.servers.vault import Faults, Vault, serving

VAULT = """
[sinks.vault]
type = "vault"
address = "{address}"
auth = {{ token = "file:vault-token" }}

[policies.own]
max_rotations = 50
select.scopes = ["organization"]
select.names = ["rotator-*"]
when.max_age = "1d"

[[policies.own.deliver]]
sink = "vault"
path = "astro/rotator"
"""


def put(server: Vault, name: str, value: str) -> None:
    """Write a secret as the operator does."""
    body = json.dumps({"data": {"token": value, "owner": "platform"}}).encode()
    server.answer("POST", f"secret/data/astro/{name}", {"X-Vault-Token": server.token}, body)


def held(server: Vault, name: str) -> dict[str, str]:
    """Return all keys of a secret."""
    _, document = server.answer("GET", f"secret/data/astro/{name}", {"X-Vault-Token": server.token}, b"")
    return dict(document["data"]["data"])


def keep_in_vault(bench: Lab, server: Vault) -> None:
    """Move our credential and the sealing key into Vault."""
    put(server, "rotator", (bench.folder / "credential").read_text())
    put(server, "key", base64.b64encode(os.urandom(32)).decode())
    (bench.folder / "credential").unlink()
    policy = (
        b'{"policy": "path \\"secret/*\\" { capabilities = [\\"create\\", \\"read\\", \\"update\\", \\"patch\\"] }"}'
    )
    server.answer("PUT", "sys/policies/acl/rotator", {"X-Vault-Token": server.token}, policy)
    asked = b'{"policies": ["rotator"]}'
    _, issued = server.answer("POST", "auth/token/create", {"X-Vault-Token": server.token}, asked)
    (bench.folder / "vault-token").write_text(issued["auth"]["client_token"])
    text = bench.config_path.read_text()
    text = text.replace('"file:credential"', '"vault:secret/astro/rotator#token"')
    keys = '\n[journal]\nkey = "vault:secret/astro/key#token"\n'
    bench.config_path.write_text(text + keys + VAULT.format(address=server.address))


def test_our_own_credential_is_renewed_where_it_is_kept(tmp_path: Path) -> None:
    """A twin is delivered into Vault, the reference yields it, and only then, after grace, does the old one end."""
    with serving() as server, lab(tmp_path) as bench:
        keep_in_vault(bench, server)
        old = bench.sandbox.store.owner_id
        results = {r.token_id: (r.outcome, r.strategy) for r in bench.sweep().results if r.policy == "own"}
        assert results == {old: (Outcome.SETTLED, Strategy.OVERLAP)}
        found = held(server, "rotator")
        new = bench.sandbox.store.authenticates_as(found["token"])
        assert new not in (None, old)
        assert found["owner"] == "platform"
        assert not (tmp_path / "rotator.key").exists()
        assert bench.clock is not None
        bench.clock.jump(timedelta(days=8))
        bench.sweep()
        assert bench.sandbox.store.authenticates_as(held(server, "rotator")["token"]) is not None


def test_a_vault_that_is_down_stops_before_anything_is_done(tmp_path: Path) -> None:
    """Without credential and key nothing can be done, and it is said as something that passes."""
    with serving() as server, lab(tmp_path) as bench:
        keep_in_vault(bench, server)
        server.faults = Faults((503, b'{"errors":["Vault is sealed"]}', {"Content-Type": "application/json"}))
        with pytest.raises(Temporary, match=r"vault:secret/astro/key#token cannot be read now: .*unseal it"):
            bench.sweep()
        server.faults = Faults()
        put(server, "rotator", "")
        with pytest.raises(ConfigError, match=r"vault:secret/astro/rotator#token cannot be read: .*empty"):
            bench.sweep()


def test_another_token_is_not_delivered_over_our_own_credential(tmp_path: Path) -> None:
    """Its place is a key of the secret that our reference reads: it is held back before anything is rotated."""
    with serving() as server, lab(tmp_path) as bench:
        keep_in_vault(bench, server)
        store, before = bench.sandbox.store, held(server, "rotator")
        made = store.create(Draft("rotator", "ORGANIZATION", store.organization_id, "ORGANIZATION_MEMBER"), "x")
        made.created_at = made.start_at = store.now() - timedelta(days=30)
        text = bench.config_path.read_text().replace('["rotator-*"]', '["rotator"]')
        bench.config_path.write_text(text + 'fields = { value = "{secret}", token = "{rotation_id}" }\n')
        report = bench.sweep()
        assert (report.plan.skipped[Skip.BAD_PATH], store.rotations(made.id)) == (1, 0)
        assert held(server, "rotator") == before
