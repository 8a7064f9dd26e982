"""The credential rotator itself works with: there is no moment at which none is left that works."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.errors import CredentialRejected, Temporary
from rotator.events import EventName
from rotator.model import Outcome, Skip, State, Strategy
from rotator.sandbox import Fault
from rotator.sandbox.store import Draft
from tests.lab import Lab, lab, write_secret

OWN = """
[sinks.state]
type = "file"
directory = "."

[policies.own]
max_rotations = 50
select.scopes = ["organization"]
select.names = ["{names}"]
when.max_age = "{age}"

[[policies.own.deliver]]
sink = "state"
path = "{path}"
"""


def owning(bench: Lab, names: str = "rotator-*", path: str = "credential", age: str = "1d") -> None:
    """Add a policy that renews our own credential."""
    bench.config_path.write_text(bench.config_path.read_text() + OWN.format(names=names, path=path, age=age))


def second(bench: Lab) -> str:
    """Give rotator two credentials, and return the id of the second."""
    store = bench.sandbox.store
    made = store.create(Draft("rotator-second", "ORGANIZATION", store.organization_id, "ORGANIZATION_OWNER"), "x")
    made.created_at = made.start_at = store.now() - timedelta(days=30)
    write_secret(bench.folder / made.id, store.secret_of(made.id))
    first = bench.sandbox.store.owner_id
    write_secret(bench.folder / first, (bench.folder / "credential").read_text())
    text = bench.config_path.read_text()
    both = f'credential = ["file:{first}", "file:{made.id}"]'
    bench.config_path.write_text(text.replace('credential = "file:credential"', both))
    return made.id


def holder(bench: Lab, path: str = "credential") -> str | None:
    """Return the token that our reference authenticates as."""
    return bench.sandbox.store.authenticates_as((bench.folder / path).read_text())


def outcomes(bench: Lab) -> dict[str, tuple[Outcome | None, Strategy]]:
    """Sweep, and return what came of each token of the policy."""
    return {r.token_id: (r.outcome, r.strategy) for r in bench.sweep().results if r.policy == "own"}


def jump(bench: Lab, by: timedelta = timedelta(minutes=3)) -> None:
    """Let time pass."""
    assert bench.clock is not None
    bench.clock.jump(by)


def test_the_only_one_is_renewed_by_overlap_with_itself(tmp_path: Path) -> None:
    """A twin is made, the reference yields it, it authenticates, and only then does the old one end."""
    with lab(tmp_path) as bench:
        owning(bench)
        old = bench.sandbox.store.owner_id
        assert outcomes(bench) == {old: (Outcome.SETTLED, Strategy.OVERLAP)}
        new = holder(bench)
        assert new not in (None, old)
        jump(bench)
        bench.sweep()
        assert old not in bench.sandbox.store.tokens
        assert holder(bench) == new
        assert bench.sweep().results == []


def test_it_is_renewed_last(tmp_path: Path) -> None:
    """Every other rotation has ended before ours begins."""
    with lab(tmp_path) as bench:
        owning(bench)
        bench.sweep()
        intended = [e.token_id for e in bench.events if e.name is EventName.ROTATION_INTENDED]
        settled = [e.token_id for e in bench.events if e.name is EventName.ROTATION_SETTLED]
        assert intended[-1] == bench.sandbox.store.owner_id
        assert settled[-1] == bench.sandbox.store.owner_id


@pytest.mark.parametrize("path", ["elsewhere", "{token_id}"])
def test_without_a_delivery_to_its_reference_it_is_skipped_by_name(tmp_path: Path, path: str) -> None:
    """A delivery that the reference does not read would lock us out: skipped, whatever its age."""
    with lab(tmp_path) as bench:
        owning(bench, path=path)
        report = bench.sweep()
        assert report.plan.skipped[Skip.OWN_CREDENTIAL] == 1
        assert not bench.sandbox.store.posts(bench.sandbox.store.owner_id)


@pytest.mark.parametrize(
    "fault", [Fault.RESET_AFTER, Fault.RESET_BEFORE, Fault.TRUNCATED, Fault.NO_TOKEN, Fault.ERROR_500, Fault.LATE]
)
def test_no_fault_of_the_create_leaves_us_without_a_credential(tmp_path: Path, fault: Fault) -> None:
    """Whatever happens to the answer, our reference authenticates after every sweep, and in the end as the twin."""
    with lab(tmp_path, timeout="1s") as bench:
        owning(bench)
        old = bench.sandbox.store.owner_id
        for _ in range(4):
            bench.sandbox.script("create", fault) if holder(bench) == old else None
            bench.sweep()
            assert holder(bench) is not None
            jump(bench)
            fault = Fault.LATENCY  # only the first is spoilt
        assert holder(bench) != old


def test_of_two_each_is_renewed_through_the_other(tmp_path: Path) -> None:
    """Both are rotated in place, one after the other, and both references authenticate afterwards."""
    with lab(tmp_path) as bench:
        two = {second(bench), bench.sandbox.store.owner_id}
        owning(bench, path="{token_id}")
        assert outcomes(bench) == dict.fromkeys(two, (Outcome.SETTLED, Strategy.IN_PLACE))
        assert {holder(bench, token_id) for token_id in two} == two
        assert all(bench.sandbox.store.rotations(token_id) == 1 for token_id in two)


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED, Fault.NO_TOKEN, Fault.HANG_AFTER, Fault.LATE])
def test_of_two_a_lost_answer_is_healed_through_the_other(tmp_path: Path, fault: Fault) -> None:
    """The one whose new secret was lost is dead; the other one still works, and rotates it again."""
    with lab(tmp_path, timeout="1s") as bench:
        first, other = bench.sandbox.store.owner_id, second(bench)
        owning(bench, path="{token_id}")
        bench.sandbox.script("rotate", fault, first)
        for _ in range(4):
            bench.sweep()
            assert first in (holder(bench, first), None)
            assert holder(bench, first) or holder(bench, other)
            jump(bench)
        assert (holder(bench, first), holder(bench, other)) == (first, other)


def test_of_two_none_is_touched_while_the_other_does_not_work(tmp_path: Path) -> None:
    """With one credential dead, the last living one is kept as it is."""
    with lab(tmp_path) as bench:
        first, other = bench.sandbox.store.owner_id, second(bench)
        owning(bench, path="{token_id}")
        write_secret(bench.folder / other, bench.sandbox.store.secret_of(other)[:-3] + "abc")
        found = outcomes(bench)
        assert found[first][0] is Outcome.FAILED
        assert bench.sandbox.store.rotations(first) == 0


class _Crash(BaseException):
    """The process ends here."""


def test_a_crash_after_minting_is_recovered_with_the_sealed_value(tmp_path: Path) -> None:
    """Of two: the process dies with the new value only sealed, its reference dead; recovery delivers it before all."""
    with lab(tmp_path) as bench:
        first, other = bench.sandbox.store.owner_id, second(bench)
        owning(bench, path="{token_id}")
        with bench.app() as app:
            desk = app.desks[0]
            sink = desk.sinks["state"]

            class Dying:
                def __getattr__(self, name: str) -> object:
                    return getattr(sink, name)

                def deliver(self, place: object, mint: object) -> object:
                    raise _Crash

            dying = replace(desk, sinks={**desk.sinks, "state": Dying()})  # type: ignore[dict-item]
            from rotator.engine.sweep import sweep

            with pytest.raises(_Crash):
                sweep(dying, dying.policies, None, lambda _: True)
        with bench.app() as app:
            [rotation] = [r for r in app.desks[0].journal.open_rotations("astro") if r.own]
        assert (rotation.state, rotation.token_id in (first, other)) == (State.MINTED, True)
        assert holder(bench, rotation.token_id) is None
        jump(bench)
        bench.sweep()
        assert (holder(bench, first), holder(bench, other)) == (first, other)


def test_a_rejected_credential_means_wait_while_it_is_being_renewed(tmp_path: Path) -> None:
    """Minutes after a renewal a mounted secret may still be the old one: running again is right, not a human."""
    with lab(tmp_path) as bench:
        owning(bench)
        before = (bench.folder / "credential").read_text()
        bench.sweep()
        new = (bench.folder / "credential").read_text()
        jump(bench)
        bench.sweep()  # the old one has ended
        write_secret(bench.folder / "credential", new[:-3] + "abc")
        with pytest.raises(Temporary, match="minutes ago"):
            bench.sweep()
        jump(bench, timedelta(minutes=11))
        with pytest.raises(CredentialRejected):
            bench.sweep()
        write_secret(bench.folder / "credential", before)
        with pytest.raises(CredentialRejected):
            bench.sweep()


def test_near_its_expiry_it_is_named_in_every_sweep(tmp_path: Path) -> None:
    """A credential that nobody renews and that expires within two weeks is loud."""
    with lab(tmp_path) as bench:
        record = bench.sandbox.store.tokens[bench.sandbox.store.owner_id]
        record.end_at = bench.sandbox.store.now() + timedelta(days=7)
        write_secret(bench.folder / "credential", bench.sandbox.store.secret_of(record.id))
        bench.sweep()
        found = [event for event in bench.events if event.name is EventName.CREDENTIAL_EXPIRING]
        assert [event.token_id for event in found] == [record.id]


def test_a_twin_keeps_the_rights_of_the_old_one(tmp_path: Path) -> None:
    """Roles that reach across are copied before the twin is delivered."""
    with lab(tmp_path) as bench:
        owning(bench)
        store = bench.sandbox.store
        workspace = next(iter(store.workspaces))
        record = store.tokens[store.owner_id]
        store.set_roles(
            record.id, record.id, (*record.roles, type(record.roles[0])("WORKSPACE", workspace, "WORKSPACE_OWNER"))
        )
        bench.sweep()
        assert set(store.tokens[holder(bench) or ""].roles) == set(record.roles)
