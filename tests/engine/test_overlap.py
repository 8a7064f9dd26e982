"""Overlap: a twin is made, delivered and proven before the old token ends; no consumer ever sees a dead secret."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.events import EventName
from rotator.marker import marker_in
from rotator.model import Outcome, Reason, Skip
from rotator.sandbox import Fault, SandboxConfig
from tests.lab import Lab, lab

DAY = timedelta(days=1)
LOST_ANSWERS = [Fault.RESET_AFTER, Fault.TRUNCATED, Fault.INVALID_JSON, Fault.NO_TOKEN, Fault.ERROR_502_AFTER]


def overlapping(bench: Lab, **keys: str) -> None:
    """Let the policy overlap."""
    said = "\n".join(f'{key} = "{value}"' for key, value in {"strategy": "overlap", **keys}.items())
    text = bench.config_path.read_text().replace("[policies.services]\n", f"[policies.services]\n{said}\n")
    bench.config_path.write_text(text.replace("[policies.services.when]", '[policies.services.when]\nemergency = "1s"'))


def alive(bench: Lab, root: str) -> str | None:
    """Return the token that the file of a lineage authenticates as."""
    return bench.sandbox.store.authenticates_as(bench.delivered(root) or "")


def sweep(bench: Lab, after: timedelta = timedelta(minutes=3)) -> dict[str, Outcome | None]:
    """Jump, sweep, and return the outcomes by token id."""
    assert bench.clock is not None
    bench.clock.jump(after)
    return {result.token_id: result.outcome for result in bench.sweep().results}


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_twin_replaces_the_token_and_both_live_until_the_grace_is_over(tmp_path: Path, version: str) -> None:
    """The twin has name, scope, roles and life of the old one; the old secret lives through the grace, then it ends."""
    with lab(tmp_path, version=version) as bench:
        overlapping(bench, retire="after_grace", grace="2d")
        store, due = bench.sandbox.store, bench.due_ids()
        before = {token_id: replace(store.tokens[token_id]) for token_id in due}
        secrets = {token_id: store.secret_of(token_id) for token_id in due}
        assert set(sweep(bench).values()) == {Outcome.SETTLED}
        for root in due:
            twin = store.tokens[alive(bench, root) or ""]
            old = before[root]
            assert twin.id != root
            assert (twin.name, twin.scope, twin.entity_id) == (old.name, old.scope, old.entity_id)
            assert (set(twin.roles), twin.expiry_days) == (set(old.roles), old.expiry_days)
            assert store.is_alive(secrets[root])
        assert sweep(bench) == {}
        assert set(sweep(bench, 2 * DAY)) == set(due)
        assert not [root for root in due if root in store.tokens or store.is_alive(secrets[root])]
        assert all(alive(bench, root) for root in due)
        assert sweep(bench) == {}


def test_old_members_are_shown_in_grace_and_are_never_due(tmp_path: Path) -> None:
    """Neither the old token, overdue as ever, nor its twin is rotated again while the grace lasts."""
    with lab(tmp_path) as bench:
        overlapping(bench)
        due = bench.due_ids()
        sweep(bench)
        report = bench.sweep()
        assert report.results == []
        assert report.plan.skipped[Skip.IN_GRACE] == len(due)


def test_when_unused_waits_for_the_old_to_fall_silent_and_the_new_to_be_used(tmp_path: Path) -> None:
    """The old token ends only once it has been idle and somebody else than us has used the new one."""
    with lab(tmp_path) as bench:
        overlapping(bench, idle="7d")
        root = bench.due_ids()[0]
        store = bench.sandbox.store
        sweep(bench)
        store.touch(root)
        assert sweep(bench, 2 * DAY)[root] is None
        sweep(bench, 8 * DAY)
        assert root in store.tokens  # idle, but nobody has used the new one: our own probes do not count
        store.touch(alive(bench, root) or "")
        assert sweep(bench, timedelta(hours=1))[root] is Outcome.SETTLED
        assert root not in store.tokens
        said = [event.message for event in bench.events if event.name is EventName.RETIREMENT_DELAYED]
        assert any("somebody used the old secret" in message for message in said)
        assert any("nobody but us" in message for message in said)


def test_nothing_ends_while_a_sink_does_not_hold_the_new_secret(tmp_path: Path) -> None:
    """The last check before a delete reads every sink and uses what it finds."""
    with lab(tmp_path) as bench:
        overlapping(bench, retire="after_grace", grace="1d", on_drift="alert")
        root = bench.due_ids()[0]
        sweep(bench)
        secret = (bench.folder / "secrets" / root).read_text()
        (bench.folder / "secrets" / root).write_text("something else")
        assert sweep(bench, timedelta(hours=25))[root] is None
        assert root in bench.sandbox.store.tokens
        (bench.folder / "secrets" / root).write_text(secret)
        assert sweep(bench, timedelta(hours=1))[root] is Outcome.SETTLED
        assert root not in bench.sandbox.store.tokens


@pytest.mark.parametrize("fault", LOST_ANSWERS, ids=str)
def test_a_twin_whose_secret_was_lost_is_deleted_and_made_again(tmp_path: Path, fault: Fault) -> None:
    """Nobody holds the secret of a twin whose answer was lost: it is ended on proof, and another one is made."""
    with lab(tmp_path, timeout="1s") as bench:
        overlapping(bench)
        due = bench.due_ids()
        count = len(bench.sandbox.store.tokens)
        bench.sandbox.script("create", fault)
        sweep(bench)
        sweep(bench)
        assert len(bench.sandbox.store.tokens) == count + len(due)
        assert all(bench.sandbox.store.is_alive(bench.sandbox.store.secret_of(root)) for root in due)
        assert all(alive(bench, root) not in (None, root) for root in due)
        assert EventName.TWIN_DELETED in {event.name for event in bench.events}


def test_a_twin_that_appears_late_is_found_and_deleted(tmp_path: Path) -> None:
    """A create that takes effect after we gave it up leaves an orphan; later sweeps delete it, and only it."""
    with lab(tmp_path, timeout="1s") as bench:
        overlapping(bench)
        due = bench.due_ids()
        store = bench.sandbox.store
        bench.sandbox.script("create", Fault.RESET_BEFORE, None)
        sweep(bench)
        with bench.app() as app:
            lost = [r for r in app.desks[0].journal.open_rotations("astro") if r.doubts]
        assert len(lost) == 1
        sweep(bench)
        late = replace(store.tokens[lost[0].token_id], id="cmlatetwin", last_used_at=None, created_at=store.now())
        with bench.app() as app:
            from rotator.engine.minting import twin_of

            late.description = twin_of(app.desks[0], lost[0]).description
            late.created_by = store.owner_id
        store.tokens[late.id], store._order[late.id] = late, None
        store._versions.bump("members")
        sweep(bench)
        assert late.id not in store.tokens
        assert all(alive(bench, root) for root in due)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda twin: setattr(twin, "description", twin.description[:-5] + "0000]"),
        lambda twin: setattr(twin, "created_by", "somebody"),
        lambda twin: setattr(twin, "last_used_at", twin.created_at),
    ],
    ids=["forged mac", "made by another", "used"],
)
def test_a_twin_is_deleted_only_on_full_proof(tmp_path: Path, tamper: object) -> None:
    """A marker with a wrong MAC, another creator, or a use: the token is named and left alone."""
    with lab(tmp_path, timeout="1s") as bench:
        overlapping(bench)
        store = bench.sandbox.store
        known = set(store.tokens)
        with bench.app() as app:
            desk = app.desks[0]
            provider = desk.provider
            bench.sandbox.script("create", Fault.RESET_AFTER, None)
            from rotator.engine.beginning import begin
            from rotator.engine.deciding import plan

            row = plan(desk, desk.policies).due[0]

            class Tampering:
                def __getattr__(self, name: str) -> object:
                    return getattr(provider, name)

                def list(self, listing: object) -> object:
                    for token_id in set(store.tokens) - known:
                        tamper(store.tokens[token_id])  # type: ignore[operator]
                    return provider.list(listing)  # type: ignore[arg-type]

            result = begin(replace(desk, provider=Tampering()), row)  # type: ignore[arg-type]
        assert result.outcome in (Outcome.SETTLED, Outcome.UNSETTLED)
        strangers = [i for i in set(store.tokens) - known if marker_in(store.tokens[i].description)]
        assert len(strangers) == 2
        assert EventName.TWIN_FOUND in {event.name for event in bench.events}


def test_a_description_without_room_for_a_marker_is_refused_before_anything(tmp_path: Path) -> None:
    """The token is named, and nothing is created."""
    with lab(tmp_path) as bench:
        overlapping(bench)
        root = bench.due_ids()[0]
        bench.sandbox.store.tokens[root].description = "x" * 450
        count = len(bench.sandbox.store.tokens)
        report = bench.sweep()
        failed = {result.token_id: result.message for result in report.results if result.outcome is Outcome.FAILED}
        assert list(failed) == [root]
        assert "leaves no room for the marker" in failed[root]
        assert len(bench.sandbox.store.tokens) == count + len(bench.due_ids()) - 1


def test_a_lineage_is_selected_by_its_first_id_and_keeps_its_path(tmp_path: Path) -> None:
    """`ids` and `{token_id}` mean the root, so a second overlap goes to the same file."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=6, limits=False)) as bench:
        overlapping(bench, retire="after_grace", grace="1d")
        root = bench.due_ids()[0]
        text = bench.config_path.read_text().replace('names = ["svc-*"]', f'ids = ["{root}"]')
        bench.config_path.write_text(text)
        sweep(bench)
        first = alive(bench, root)
        sweep(bench, 2 * DAY)
        report = sweep(bench, 91 * DAY)
        assert list(report.values()) == [Outcome.SETTLED]
        assert alive(bench, root) not in (None, root, first)
        assert [path.name for path in (bench.folder / "secrets").iterdir()] == [root]
        assert Reason.MAX_AGE in {event.reason for event in bench.events}


@pytest.mark.parametrize("forged", [False, True])
def test_nobody_exempts_a_token_by_writing_a_marker_into_it(tmp_path: Path, forged: bool) -> None:
    """A marker that was copied from an old twin, or made up, does not keep a token from being rotated."""
    with lab(tmp_path) as bench:
        overlapping(bench)
        due = bench.due_ids()
        victim = bench.sandbox.store.tokens[due[0]]
        name, victim.name = victim.name, "not-selected"
        sweep(bench)
        twin = bench.sandbox.store.tokens[alive(bench, due[1]) or ""]
        victim.name = name
        victim.description = twin.description if not forged else (f"[rotator {'0' * 32}-1 {due[1]} {'0' * 32}]")
        assert sweep(bench)[victim.id] is Outcome.SETTLED


def test_a_token_of_the_data_plane_gets_no_twin(tmp_path: Path) -> None:
    """A DIRECT_ACCESS token that is named by its id is refused under overlap: a twin would be of another kind."""
    with lab(tmp_path) as bench:
        overlapping(bench)
        record = next(t for t in bench.sandbox.store.tokens.values() if t.id in bench.due_ids())
        record.kind = "DIRECT_ACCESS"
        text = bench.config_path.read_text().replace('names = ["svc-*"]', f'ids = ["{record.id}"]')
        bench.config_path.write_text(text)
        [result] = bench.sweep().results
        assert (result.outcome, "in_place" in result.message) == (Outcome.FAILED, True)
