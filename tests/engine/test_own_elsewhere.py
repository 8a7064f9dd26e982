"""What one table of the configuration works with is ended by no other, nor what became a credential since the plan."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.engine.deciding import plan
from rotator.engine.manual import Asked, named, rotate
from rotator.engine.sweep import Report, sweep
from rotator.model import Outcome, Skip
from rotator.planning import Candidate, Plan, Row
from rotator.sandbox import Fault
from rotator.sandbox.store import Draft, Record
from tests.engine.test_own import holder, jump, owning, second
from tests.engine.test_own_in_vault import put
from tests.engine.test_own_store_down import DOWN, VAULT
from tests.lab import JumpingClock, Lab, lab, write_secret
from tests.servers.vault import Faults, Vault, serving

SINK = """
[sinks.env]
type = "astro_environment"
organization_id = "{organization}"
credential = "file:sink-credential"
base_url = "{url}"
"""


def owner(bench: Lab, name: str, days: int = 200) -> Record:
    """Make a token that rotator could work with and that is due."""
    store = bench.sandbox.store
    made = store.create(Draft(name, "ORGANIZATION", store.organization_id, "ORGANIZATION_OWNER"), store.owner_id)
    made.created_at = made.start_at = store.now() - timedelta(days=days)
    return made


def use(bench: Lab, path: str, token_id: str) -> None:
    """Put the secret of a token where a reference reads."""
    write_secret(bench.folder / path, bench.sandbox.store.secret_of(token_id))


def two_providers(bench: Lab, reference: str = "file:credential2") -> None:
    """Add a provider of the same organization; the policy stays with the first."""
    text = bench.config_path.read_text()
    table = text[text.index("[providers.astro]") : text.index("[sinks.files]")]
    text = text.replace("[policies.services]\n", '[policies.services]\nprovider = "astro"\n')
    two = table.replace("providers.astro", "providers.two").replace("file:credential", reference)
    bench.config_path.write_text(text + two)


def renewing(bench: Lab, path: str) -> None:
    """Add a policy of the first provider that renews our credentials, and delivers to one place."""
    owning(bench, path=path)
    text = bench.config_path.read_text()
    bench.config_path.write_text(text.replace("[policies.own]\n", '[policies.own]\nprovider = "astro"\n'))


def in_vault(bench: Lab, server: Vault, token: Record) -> None:
    """Add a provider whose credential is in Vault."""
    put(server, "rotator", bench.sandbox.store.secret_of(token.id))
    policy = b'{"policy": "path \\"secret/*\\" { capabilities = [\\"read\\"] }"}'
    server.answer("PUT", "sys/policies/acl/r", {"X-Vault-Token": server.token}, policy)
    _, issued = server.answer("POST", "auth/token/create", {"X-Vault-Token": server.token}, b'{"policies": ["r"]}')
    (bench.folder / "vault-token").write_text(issued["auth"]["client_token"])
    two_providers(bench, "vault:secret/astro/rotator#token")
    bench.config_path.write_text(bench.config_path.read_text() + VAULT.format(address=server.address))


def swept(bench: Lab, between: Callable[[], None] = lambda: None) -> Report:
    """Sweep the first provider; something happens between its plan and its first turn."""

    def confirm(_plan: Plan) -> bool:
        between()
        return True

    with bench.app() as app:
        desk = app.desks[0]
        return sweep(desk, desk.policies, None, confirm)


def left_alone(bench: Lab, token_id: str) -> str:
    """Return why the plan of the first provider leaves a token alone; empty if it does not."""
    rows: list[Row] = []
    with bench.app() as app:
        plan(app.desks[0], app.desks[0].policies, skipped=rows.append)
    found = [row.decision for row in rows if isinstance(row, Candidate) and row.token.id == token_id]
    return found[0].message if found and found[0].skip is Skip.OWN_CREDENTIAL else ""


def test_the_credential_of_another_provider_is_left_alone(tmp_path: Path) -> None:
    """A policy that selects it skips it, and says whose it is and what to do; the other provider works on."""
    with lab(tmp_path) as bench:
        other = owner(bench, "svc-rotator-2")
        use(bench, "credential2", other.id)
        two_providers(bench)
        assert "providers.two works with" in left_alone(bench, other.id)
        report = swept(bench)
        assert report.plan.skipped[Skip.OWN_CREDENTIAL] == 1
        assert {result.outcome for result in report.results} == {Outcome.SETTLED}
        assert holder(bench, "credential2") == other.id


def test_nor_is_it_rotated_for_a_person_who_names_it(tmp_path: Path) -> None:
    """`rotate TOKEN` fails with the same sentence, also where the secret would arrive where the other one reads."""
    with lab(tmp_path) as bench:
        other = owner(bench, "rotator-2")
        use(bench, "credential2", other.id)
        two_providers(bench)
        renewing(bench, path="credential2")
        with bench.app() as app:
            desk = app.desks[0]
            rows = named([desk], [other.id]).rows["astro"]
            [result] = rotate(desk, rows, Asked(), lambda _: True)
        assert (result.outcome, bench.sandbox.store.posts(other.id)) == (Outcome.FAILED, 0)
        assert "let a policy of providers.two renew it" in result.message


@pytest.mark.parametrize("is_copied", [False, True])
def test_a_copy_of_our_credential_is_not_left_behind(tmp_path: Path, is_copied: bool) -> None:
    """Another table reads the same credential elsewhere: ours is renewed only if that place gets the new one too."""
    with lab(tmp_path) as bench:
        old = bench.sandbox.store.owner_id
        use(bench, "copy", old)
        two_providers(bench, "file:copy")
        renewing(bench, path="credential")
        if is_copied:
            more = '\n[[policies.own.deliver]]\nsink = "state"\npath = "copy"\n'
            bench.config_path.write_text(bench.config_path.read_text() + more)
        for _ in range(3):
            swept(bench)
            jump(bench, timedelta(hours=1))
        assert holder(bench) == holder(bench, "copy") is not None
        assert (holder(bench) != old) == is_copied
        assert (old not in bench.sandbox.store.tokens) == is_copied


def test_an_old_one_is_not_ended_while_another_table_works_with_it(tmp_path: Path) -> None:
    """Somebody gives the old credential to another table in its grace: it lives on until that has another one."""
    with lab(tmp_path) as bench:
        old, other = bench.sandbox.store.owner_id, owner(bench, "other")
        secret = bench.sandbox.credential
        use(bench, "credential2", other.id)
        two_providers(bench)
        renewing(bench, path="credential")
        swept(bench)
        write_secret(bench.folder / "credential2", secret)
        jump(bench)
        said = [result.message for result in swept(bench).results]
        assert any("providers.two works with it" in message for message in said)
        assert holder(bench, "credential2") == old
        use(bench, "credential2", other.id)
        jump(bench)
        swept(bench)
        assert old not in bench.sandbox.store.tokens


@pytest.mark.parametrize("is_home", [False, True])
def test_the_credential_of_a_sink_is_renewed_only_where_the_sink_reads_it(tmp_path: Path, is_home: bool) -> None:
    """A policy that delivers elsewhere leaves it alone; one that delivers to the sink's reference renews it."""
    with lab(tmp_path) as bench:
        sinks = owner(bench, "writer")
        use(bench, "sink-credential", sinks.id)
        table = SINK.format(organization=bench.sandbox.organization_id, url=bench.sandbox.url)
        bench.config_path.write_text(bench.config_path.read_text() + table)
        owning(bench, names="writer", path="sink-credential" if is_home else "elsewhere")
        assert ("sinks.env works with" in left_alone(bench, sinks.id)) != is_home
        swept(bench)
        assert holder(bench, "sink-credential") == sinks.id
        assert bench.sandbox.store.rotations(sinks.id) == is_home


@pytest.mark.parametrize("path", ["credential", "credential2"])
def test_what_becomes_a_credential_after_the_plan_is_left_alone(tmp_path: Path, path: str) -> None:
    """A person puts a due token where we, or another table, read the credential: it is not rotated like any other."""
    with lab(tmp_path) as bench:
        new = owner(bench, "svc-new-rotator")
        use(bench, "credential2", owner(bench, "other").id)
        two_providers(bench)
        results = {r.token_id: r for r in swept(bench, lambda: use(bench, path, new.id)).results}
        assert "planned anew" in results[new.id].message
        assert (holder(bench, path), bench.sandbox.store.posts(new.id)) == (new.id, 0)
        assert {r.outcome for r in results.values() if r.token_id != new.id} == {Outcome.SETTLED}
        assert left_alone(bench, new.id)


def test_of_two_the_last_one_is_not_rotated_in_place(tmp_path: Path) -> None:
    """Between plan and turn both references come to hold the same token: it is the only one now."""
    with lab(tmp_path) as bench:
        first, other = bench.sandbox.store.owner_id, second(bench)
        owning(bench, path="{token_id}")
        swept(bench, lambda: use(bench, other, first))
        assert holder(bench, first) == holder(bench, other) == first
        assert bench.sandbox.store.posts(first) == 0


def test_one_that_is_ours_no_more_is_planned_anew(tmp_path: Path) -> None:
    """Between plan and turn a person puts another token there: the old one is not renewed as if it were ours."""
    with lab(tmp_path) as bench:
        old, new = bench.sandbox.store.owner_id, owner(bench, "other")
        owning(bench)
        before = len(bench.sandbox.store.tokens)
        swept(bench, lambda: use(bench, "credential", new.id))
        assert (holder(bench), len(bench.sandbox.store.tokens)) == (new.id, before)
        assert old in bench.sandbox.store.tokens


def test_a_lost_secret_is_not_asked_for_again_once_it_is_our_credential(tmp_path: Path) -> None:
    """Somebody rotated the token by hand and gave it to us: another rotation would end what we work with."""
    with lab(tmp_path) as bench:
        token = owner(bench, "svc-new-rotator")
        store, old = bench.sandbox.store, bench.sandbox.credential
        for _ in range(3):
            bench.sandbox.script("rotate", Fault.RESET_AFTER, token.id)
        bench.sweep()
        posts = store.posts(token.id)
        store.rotate(token.id, store.owner_id)
        use(bench, "credential", token.id)
        jump(bench, timedelta(hours=1))
        [result] = [r for r in bench.sweep().results if r.token_id == token.id]
        assert (result.outcome, store.posts(token.id)) == (Outcome.UNSETTLED, posts)
        assert holder(bench) == token.id
        write_secret(bench.folder / "credential", old)
        jump(bench, timedelta(hours=7))
        bench.sweep()
        assert store.authenticates_as(bench.delivered(token.id) or "") == token.id


def test_what_is_lost_is_made_again_where_it_reaches_who_works_with_it(tmp_path: Path) -> None:
    """They are cut off already, and nobody but this rotation can mend it."""
    with lab(tmp_path) as bench:
        token_id = bench.due_ids()[0]
        (tmp_path / "secrets").mkdir(mode=0o700)
        use(bench, f"secrets/{token_id}", token_id)
        for _ in range(3):
            bench.sandbox.script("rotate", Fault.RESET_AFTER, token_id)
        bench.sweep()
        assert not bench.sandbox.store.is_alive(bench.delivered(token_id) or "")
        two_providers(bench, f"file:secrets/{token_id}")
        jump(bench, timedelta(hours=7))
        bench.sweep()
        assert bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") == token_id


def test_nor_is_it_asked_for_again_after_a_pause_of_the_api(tmp_path: Path) -> None:
    """The API refuses the call for a while, and meanwhile the token becomes our credential."""
    with lab(tmp_path) as bench:
        token = owner(bench, "svc-new-rotator")

        class Switching(JumpingClock):
            def sleep(self, duration: timedelta) -> None:
                use(bench, "credential", token.id)
                super().sleep(duration)

        bench.clock = Switching()
        bench.sandbox.script("rotate", Fault.THROTTLE_BARE, token.id)
        [result] = [r for r in bench.sweep().results if r.token_id == token.id]
        assert (result.outcome, bench.sandbox.store.rotations(token.id)) == (Outcome.FAILED, 0)
        assert holder(bench) == token.id


def test_a_leak_does_not_end_what_another_table_works_with(tmp_path: Path) -> None:
    """With --revoke-first old members of the lineage end at once, but not one that somebody would be locked out by."""
    with lab(tmp_path) as bench:
        token = owner(bench, "svc-leaked")
        secret = bench.sandbox.store.secret_of(token.id)
        use(bench, "credential2", owner(bench, "other").id)
        two_providers(bench)
        text = bench.config_path.read_text()
        bench.config_path.write_text(
            text.replace('provider = "astro"\n', 'provider = "astro"\nstrategy = "overlap"\n', 1)
        )
        swept(bench)
        write_secret(bench.folder / "credential2", secret)
        with bench.app() as app:
            desk = app.desks[0]
            rows = named([desk], [token.id]).rows["astro"]
            [result] = rotate(desk, rows, Asked(leaked=True, revoke_first=True), lambda _: True)
        assert (result.outcome, "providers.two works with it" in result.message) == (Outcome.UNSETTLED, True)
        assert holder(bench, "credential2") == token.id


def test_a_store_that_is_down_holds_back_only_what_may_be_the_credential(tmp_path: Path) -> None:
    """What another table works with cannot be read and never could: tokens we have rotated before go on."""
    with serving() as server, lab(tmp_path) as bench:
        other = owner(bench, "svc-rotator-2")
        in_vault(bench, server, other)
        due = set(bench.due_ids()) - {other.id}
        server.faults = DOWN
        assert swept(bench).results == []
        assert "providers.two cannot be read now" in left_alone(bench, other.id)
        server.faults = Faults()
        assert {r.token_id for r in swept(bench).results} == due
        server.faults = DOWN
        jump(bench, timedelta(days=100))
        settled = {r.token_id for r in swept(bench).results if r.outcome is Outcome.SETTLED}
        assert due <= settled
        assert bench.sandbox.store.posts(other.id) == 0


def test_one_that_was_read_before_is_known_while_its_store_is_down(tmp_path: Path) -> None:
    """Nothing is held back but the token itself, in the process that has read it."""
    with serving() as server, lab(tmp_path) as bench:
        other = owner(bench, "svc-rotator-2")
        in_vault(bench, server, other)
        due = set(bench.due_ids()) - {other.id}
        with bench.app() as app:
            desk = app.desks[0]
            assert other.id in desk.others().holders
            server.faults = DOWN
            jump(bench, timedelta(minutes=1))
            results = sweep(desk, desk.policies, None, lambda _: True).results
        assert {r.token_id for r in results if r.outcome is Outcome.SETTLED} == due
        assert bench.sandbox.store.posts(other.id) == 0
