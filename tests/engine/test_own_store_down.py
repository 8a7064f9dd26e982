"""Two credentials of ours, the store of one being down: the other one works."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.engine.sweep import sweep
from rotator.errors import Temporary
from rotator.events import EventName
from rotator.model import Outcome
from rotator.sandbox import Fault
from rotator.sandbox.store import Draft
from tests.engine.test_own_in_vault import put
from tests.lab import Lab, lab, write_secret
from tests.servers.vault import Faults, Vault, serving

DOWN = Faults((503, b'{"errors":["Vault is sealed"]}', {"Content-Type": "application/json"}))
VAULT = '[sinks.vault]\ntype = "vault"\naddress = "{address}"\nauth = {{ token = "file:vault-token" }}\n'


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Lab, Vault]]:
    """Yield a lab whose first credential is in Vault, and a second one in a file."""
    with serving() as server, lab(tmp_path) as bench:
        store = bench.sandbox.store
        made = store.create(Draft("rotator-second", "ORGANIZATION", store.organization_id, "ORGANIZATION_OWNER"), "x")
        write_secret(tmp_path / "second", store.secret_of(made.id))
        put(server, "rotator", (tmp_path / "credential").read_text())
        policy = b'{"policy": "path \\"secret/*\\" { capabilities = [\\"read\\"] }"}'
        server.answer("PUT", "sys/policies/acl/r", {"X-Vault-Token": server.token}, policy)
        asked = b'{"policies": ["r"]}'
        _, issued = server.answer("POST", "auth/token/create", {"X-Vault-Token": server.token}, asked)
        (tmp_path / "vault-token").write_text(issued["auth"]["client_token"])
        both = 'credential = ["vault:secret/astro/rotator#token", "file:second"]'
        text = bench.config_path.read_text().replace('credential = "file:credential"', both)
        bench.config_path.write_text(text + VAULT.format(address=server.address))
        yield bench, server


def test_work_goes_on_while_the_store_of_one_is_down(two: tuple[Lab, Vault]) -> None:
    """The other one lists, rotates and settles; it is told once; and neither token of ours is rotated like others."""
    bench, server = two
    bench.config_path.write_text(bench.config_path.read_text().replace('names = ["svc-*"]', 'names = ["*"]'))
    with bench.app() as app:
        desk = app.desks[0]
        assert sweep(desk, desk.policies, None, lambda _: True).results
        server.faults = DOWN
        assert bench.clock is not None
        bench.clock.jump(timedelta(days=100))
        due = bench.due_ids()
        results = {r.token_id: r.outcome for r in sweep(desk, desk.policies, None, lambda _: True).results}
    assert due
    assert results == dict.fromkeys(due, Outcome.SETTLED)
    assert [event.name for event in bench.events].count(EventName.CREDENTIAL_UNREADABLE) == 1


def test_one_whose_token_nobody_knows_yet_holds_back_what_is_new_only(two: tuple[Lab, Vault]) -> None:
    """Any token could be the one that cannot be read, so nothing new begins; what is open is brought to its end."""
    bench, server = two
    bench.sandbox.script("rotate", Fault.RESET_AFTER, bench.due_ids()[0])
    bench.sweep()
    assert opened(bench) == 1  # in doubt once, so it settles after a late look
    server.faults = DOWN
    assert bench.clock is not None
    bench.clock.jump(timedelta(days=100))
    due = bench.due_ids()
    with pytest.raises(Temporary, match="vault:secret/astro/rotator#token cannot be read now"):
        bench.sweep()
    assert opened(bench) == 0
    assert bench.due_ids() == due


def opened(bench: Lab) -> int:
    """Return how many rotations are open."""
    with bench.app() as app:
        return len(app.desks[0].journal.open_rotations("astro"))
