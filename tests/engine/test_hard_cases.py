"""Cases in which a secret could be lost, a leak could live on, or we could be locked out: each was possible once."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.app import App, by_hand
from rotator.cli.sweeping import exit_code
from rotator.engine.desk import Desk, Result
from rotator.engine.manual import Asked, named, rotate
from rotator.engine.sweep import Report, recover
from rotator.engine.sweep import sweep as run_sweep
from rotator.errors import ConfigError, CredentialRejected, Forbidden, NotFound, OutcomeUnknown, Temporary, Throttled
from rotator.events import EventName
from rotator.model import Lineage, Outcome, Skip, State, Token
from rotator.ports import Write
from rotator.sandbox import SandboxConfig
from rotator.sandbox.store import Draft
from tests.engine.test_own import holder, owning, second
from tests.lab import Lab, lab

DAY = timedelta(days=1)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab with one due token."""
    with lab(tmp_path) as made:
        keep = made.due_ids()[0]
        for token_id in list(made.sandbox.store.tokens):
            if token_id not in (keep, made.sandbox.store.owner_id):
                made.sandbox.store.delete(token_id)
        yield made


class Wrapped:
    """Something real with some of its methods replaced; each is given the real one first."""

    def __init__(self, real: Any, **methods: Callable[..., Any]) -> None:
        self._real = real
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in self._methods:
            return real
        return lambda *args, **kwargs: self._methods[name](real, *args, **kwargs)


def down(*_: object) -> object:
    """A sink that does not answer."""
    raise Temporary("the sink is down")


def refusing(error: Exception) -> Callable[..., Any]:
    """A method that fails."""

    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@contextmanager
def spoilt(
    bench: Lab, provider: dict[str, Any] | None = None, sink: dict[str, Any] | None = None, journal: Any = None
) -> Iterator[tuple[App, Desk]]:
    """The application with parts that misbehave."""
    with bench.app() as app:
        desk = app.desks[0]
        yield (
            app,
            replace(
                desk,
                provider=Wrapped(desk.provider, **(provider or {})),  # type: ignore[arg-type]
                sinks={name: Wrapped(real, **(sink or {})) for name, real in desk.sinks.items()},  # type: ignore[misc]
                journal=Wrapped(desk.journal, **(journal or {})),  # type: ignore[arg-type]
            ),
        )


def sweep(desk: Desk) -> Report:
    """One pass."""
    return run_sweep(desk, desk.policies, None, lambda _: True)


def asked(app: App, desk: Desk, token_id: str, **how: Any) -> Result:
    """Rotate one token by hand."""
    [result] = rotate(desk, named([desk], [token_id]).rows["astro"], Asked(**how), lambda _: False)
    return result


def target(bench: Lab) -> str:
    """The one token."""
    return next(token_id for token_id in bench.sandbox.store.tokens if token_id != bench.sandbox.store.owner_id)


def lives(bench: Lab, token_id: str) -> bool:
    """Whether its file authenticates."""
    return bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") is not None


def add(bench: Lab, *lines: str) -> None:
    """Add keys to the policy."""
    text = bench.config_path.read_text()
    said = "\n".join(lines)
    bench.config_path.write_text(text.replace("[policies.services]\n", f"[policies.services]\n{said}\n", 1))


def jump(bench: Lab, by: timedelta = timedelta(minutes=10)) -> None:
    """Let time pass."""
    assert bench.clock is not None
    bench.clock.jump(by)


def lineage(bench: Lab, token_id: str) -> Lineage:
    """What the journal remembers."""
    with bench.app(writing=False) as app:
        return app.reader.lineages("astro", [token_id])[token_id]


def unsettled(bench: Lab) -> None:
    """A sweep whose delivery fails."""
    with spoilt(bench, sink={"deliver": down}) as (_, desk):
        assert [r.outcome for r in sweep(desk).results] == [Outcome.UNSETTLED]


def test_a_seal_that_could_not_be_written_is_written_with_the_next_state(bench: Lab) -> None:
    """The journal fails at the very commit of the new secret and the sink is down: the next commit carries the seal."""
    failed: list[Write] = []
    sealed: list[Write] = []

    def once(real: Callable[..., None], write: Write) -> None:
        if write.secret is not None and not failed:
            failed.append(write)
            raise Temporary("no space left")
        sealed.extend([write] if write.secret is not None else [])
        real(write)

    with spoilt(bench, sink={"deliver": down}, journal={"write": once}) as (_, desk):
        sweep(desk)
    assert failed
    assert [write.durable for write in sealed] == [True]  # a power cut must not take it away again
    jump(bench)
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert (lives(bench, target(bench)), bench.sandbox.store.posts(target(bench))) == (True, 1)


def test_a_rotation_whose_seal_is_missing_asks_for_another_secret(bench: Lab) -> None:
    """If no commit carried the seal before the process ended, the secret is lost, and known to be."""

    def unsealing(real: Callable[..., None], write: Write) -> None:
        real(replace(write, secret=None))

    with spoilt(bench, sink={"deliver": down}, journal={"write": unsealing}) as (_, desk):
        sweep(desk)
    jump(bench)
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert (lives(bench, target(bench)), bench.sandbox.store.posts(target(bench))) == (True, 2)


def test_a_leak_that_is_refused_keeps_what_was_sealed(bench: Lab) -> None:
    """A live secret waits for its sink; rotating it for a leak is refused: it waits on, and arrives though paused."""
    unsettled(bench)
    add(bench, "paused_until = 2099-01-01T00:00:00Z")
    with spoilt(bench, provider={"rotate": refusing(Forbidden("403"))}, sink={"preflight": down}) as (app, desk):
        assert asked(app, desk, target(bench), leaked=True, revoke_first=True).outcome is Outcome.UNSETTLED
    jump(bench)
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert lives(bench, target(bench))


def test_a_leak_is_never_left_undone_with_a_good_exit_code(bench: Lab) -> None:
    """A sweep that only looks comes between again and again: it is tried again, and fails if it must."""
    bench.sweep()
    token_id = target(bench)
    leaked = bench.sandbox.store.secret_of(token_id)

    def interfering(desk: Desk, times: int) -> Callable[..., Any]:
        done: list[int] = []

        def get(real: Callable[..., Any], ref: Any) -> Any:
            if len(done) < times:
                done.append(1)
                known = desk.journal.lineages("astro", [token_id])[token_id]
                desk.journal.remember(Write(lineage=replace(known, looked_at=desk.clock.now())))
            return real(ref)

        return get

    for times, outcome in ((99, Outcome.FAILED), (2, Outcome.SETTLED)):
        with bench.app() as app:
            desk = app.desks[0]
            busy = replace(desk, provider=Wrapped(desk.provider, get=interfering(desk, times)))  # type: ignore[arg-type]
            result = asked(app, busy, token_id, leaked=True)
        assert (result.outcome, exit_code([result], [])) == (outcome, 1 if outcome is Outcome.FAILED else 0)
    assert not bench.sandbox.store.is_alive(leaked)


def test_revoke_first_ends_the_old_member_although_no_sink_can_be_written(bench: Lab) -> None:
    """The leaked secret of a member in grace dies at once, and what is in the journal follows."""
    add(bench, 'strategy = "overlap"', 'grace = "30d"')
    root = target(bench)
    leaked = bench.sandbox.store.secret_of(root)
    bench.sweep()
    with spoilt(bench, sink={"preflight": down, "deliver": down}) as (app, desk):
        asked(app, desk, root, leaked=True, revoke_first=True)
    assert not bench.sandbox.store.is_alive(leaked)
    for _ in range(2):
        jump(bench, 40 * DAY)
        bench.sweep()
    assert (lives(bench, root), len(lineage(bench, root).retiring) <= 1) == (True, True)


def test_a_replica_that_lags_is_no_proof_that_a_secret_is_dead(bench: Lab) -> None:
    """401 for the fresh secret while reads show the generation before it: wait, never another POST."""
    token_id = target(bench)
    with bench.app() as app:
        before = app.desks[0].provider.find(token_id).generation  # type: ignore[attr-defined]

    def old(real: Callable[..., Any], ref: Any) -> Any:
        return replace(real(ref), generation=before)

    for _ in range(3):
        with spoilt(bench, provider={"get": old, "authenticate": refusing(CredentialRejected("401"))}) as (_, desk):
            assert [r.outcome for r in sweep(desk).results] == [Outcome.UNSETTLED]
    assert bench.sandbox.store.posts(token_id) == 1
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]


def taken_over(bench: Lab, others: Callable[[], None], *, late: bool) -> Callable[..., Any]:
    """A rotate call during which somebody tidies away the signs of life, and another process goes on without us.

    Args:
        bench: Whose journal.
        others: What the other process does.
        late: Whether the call takes effect only after that.
    """
    done: list[object] = []

    def rotate(real: Callable[..., Any], ref: Any) -> Any:
        if done:
            return real(ref)
        done.append(ref)
        minted = None if late else real(ref)
        for sign in (bench.folder / "rotator.db.instances").iterdir():
            sign.unlink()
        others()
        return minted or real(ref)

    return rotate


def test_who_was_taken_over_delivers_nothing_over_the_new_owner(bench: Lab) -> None:
    """Another process found the call lost, and settled the next secret: the first one's answer comes too late."""

    def others() -> None:
        jump(bench)
        bench.sweep()
        jump(bench)
        bench.sweep()

    with spoilt(bench, provider={"rotate": taken_over(bench, others, late=False)}) as (_, desk):
        [result] = sweep(desk).results
    assert (result.outcome, "taken it over" in result.message) == (Outcome.UNSETTLED, True)
    assert (lives(bench, target(bench)), lineage(bench, target(bench)).stale) == (True, False)
    assert bench.sweep().results == []


def test_what_only_the_one_that_was_taken_over_holds_is_made_anew(bench: Lab) -> None:
    """The other one closed the rotation as without effect before the call took it: nobody looks any more.

    The new secret is not delivered, for nothing fences a sink; that it is lost is noted, and the next sweep heals it.
    """

    def others() -> None:
        for _ in range(2):
            with bench.app() as app:
                recover(app.desks[0])
            jump(bench)
        with bench.app(writing=False) as app:
            assert not app.reader.open_rotations("astro")

    with spoilt(bench, provider={"rotate": taken_over(bench, others, late=True)}) as (_, desk):
        assert [r.outcome for r in sweep(desk).results] == [Outcome.UNSETTLED]
    assert (bench.delivered(target(bench)), lineage(bench, target(bench)).stale) == (None, True)
    assert EventName.ROTATION_LOST in {event.name for event in bench.events}
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert lives(bench, target(bench))


def test_what_is_lost_while_the_new_owner_is_at_it_is_healed_by_it(bench: Lab) -> None:
    """The rotation is open when the answer comes: its owner finds the generation moved, and nothing else is noted."""

    def others() -> None:
        with bench.app() as app:
            recover(app.desks[0])

    with spoilt(bench, provider={"rotate": taken_over(bench, others, late=True)}) as (_, desk):
        sweep(desk)
    assert (bench.delivered(target(bench)), lineage(bench, target(bench)).stale) == (None, False)
    jump(bench)
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert lives(bench, target(bench))


def short_lived(bench: Lab, strategy: str) -> str:
    """Let the one token's secrets live for a day, and the one that it has end soon."""
    add(bench, f'strategy = "{strategy}"', 'retire = "after_grace"', 'grace = "1h"')
    record = bench.sandbox.store.tokens[target(bench)]
    record.life, record.expiry_days = DAY, 1
    record.end_at = bench.sandbox.store.now() + timedelta(hours=5)
    return record.id


@pytest.mark.parametrize("strategy", ["in_place", "overlap"])
def test_a_secret_that_expired_while_it_waited_for_its_sink_is_replaced(bench: Lab, strategy: str) -> None:
    """The sink is down for longer than the sealed secret lives: that one is never delivered, and the next one arrives.

    While the sink is still down no other secret is made: it would only wait, and expire, like the first.
    """
    root, store = short_lived(bench, strategy), bench.sandbox.store
    unsettled(bench)
    delivered: list[object] = []
    for _ in range(3):
        jump(bench, 2 * DAY)
        with spoilt(bench, sink={"preflight": down, "deliver": lambda *asked: delivered.append(asked)}) as (_, desk):
            assert Outcome.SETTLED not in {r.outcome for r in sweep(desk).results}
        with bench.app(writing=False) as app:
            assert not app.reader.open_rotations("astro")
    assert delivered == []
    made = len(set(store.tokens) - {root, store.owner_id}) + store.posts(root)
    assert (made, bench.delivered(root)) == (1, None)
    assert Outcome.SETTLED in {r.outcome for r in bench.sweep().results}
    assert (lives(bench, root), lineage(bench, root).quarantined_at) == (True, None)
    jump(bench, timedelta(hours=2))
    bench.sweep()
    in_use = store.authenticates_as(bench.delivered(root) or "")
    assert set(store.tokens) == {in_use, store.owner_id}  # no twin is left behind


def test_a_secret_that_was_made_after_its_end_is_not_made_again_and_again(tmp_path: Path) -> None:
    """Rotating an expired token does not move its expiry: the next secret would be as dead, so it is named instead."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=1, limits=False, rotate_moves_expiry=False)) as bench:
        for token_id in set(bench.sandbox.store.tokens) - {bench.sandbox.store.owner_id}:
            bench.sandbox.store.delete(token_id)
        store = bench.sandbox.store
        record = store.create(
            Draft("svc-x", "ORGANIZATION", store.organization_id, "ORGANIZATION_MEMBER", expiry_days=1), store.owner_id
        )
        record.created_at = record.start_at = store.now() - 200 * DAY
        record.end_at = store.now() - DAY
        for _ in range(4):
            assert {r.outcome for r in bench.sweep().results} == {Outcome.UNSETTLED}
            jump(bench, DAY)
        assert store.posts(record.id) == 1


def test_our_credential_is_renewed_although_its_twin_was_deleted(bench: Lab) -> None:
    """The sealed value of the twin is dead for good: the old one, still alive, makes another."""
    bench.sandbox.store.delete(target(bench))
    owning(bench)
    store, old = bench.sandbox.store, bench.sandbox.store.owner_id
    unsettled(bench)
    [twin] = set(store.tokens) - {old}
    store.delete(twin)
    for _ in range(3):
        jump(bench)
        bench.sweep()
        assert holder(bench) is not None
    assert holder(bench) not in (old, twin)


def test_of_two_credentials_one_that_somebody_rotated_blocks_nobody(bench: Lab) -> None:
    """The sealed value of one was superseded by a person: it is closed, and both are renewed again."""
    other = second(bench)
    owning(bench, path="{token_id}")
    first = bench.sandbox.store.owner_id
    with spoilt(bench, sink={"deliver": down}) as (_, desk):
        sweep(desk)
    with bench.app(writing=False) as app:
        [rotation] = [r for r in app.reader.open_rotations("astro") if r.own]
    bench.sandbox.store.rotate(rotation.token_id, "person")
    path = bench.folder / rotation.token_id
    path.write_text(bench.sandbox.store.secret_of(rotation.token_id))
    for _ in range(2):
        jump(bench)
        bench.sweep()
    assert {holder(bench, first), holder(bench, other)} == {first, other}
    with bench.app(writing=False) as app:
        assert not app.reader.open_rotations("astro")


def test_two_404s_with_a_good_look_between_are_no_end(bench: Lab) -> None:
    """Only a token that is unknown twice in a row, some time apart, is gone; and if it comes back it is made good."""
    unsettled(bench)
    gone = {"get": refusing(NotFound("404")), "authenticate": refusing(CredentialRejected("401"))}
    for is_gone in (True, False, True):
        jump(bench, DAY)
        with spoilt(bench, provider=gone if is_gone else {}, sink={"deliver": down}) as (_, desk):
            sweep(desk)
    with bench.app(writing=False) as app:
        assert [r.state for r in app.reader.open_rotations("astro")] == [State.UNSETTLED]
    jump(bench, DAY)
    with spoilt(bench, provider=gone) as (_, desk):
        sweep(desk)
    assert lineage(bench, target(bench)).gone_at is not None
    jump(bench)
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert (lives(bench, target(bench)), lineage(bench, target(bench)).gone_at) == (True, None)


def test_a_drift_that_was_mended_meanwhile_is_not_rotated_for(bench: Lab) -> None:
    """The look that found it is old: before anything is rotated the sinks are read again."""
    bench.sweep()
    path = bench.folder / "secrets" / target(bench)
    good = path.read_text()
    path.write_text("edited")
    jump(bench, timedelta(hours=25))
    with bench.app() as app:
        run_sweep(app.desks[0], app.desks[0].policies, None, lambda _: False)  # a person says no
    path.write_text(good)
    jump(bench)
    bench.sweep()
    assert bench.sandbox.store.posts(target(bench)) == 1


def test_alert_only_does_not_rotate_over_what_a_person_put_right(bench: Lab) -> None:
    """A person superseded our unfinished rotation and updated the sink: taken over, also under on_drift = "alert"."""
    add(bench, 'on_drift = "alert"')
    unsettled(bench)
    bench.sandbox.store.rotate(target(bench), "person")
    good = bench.sandbox.store.secret_of(target(bench))
    (bench.folder / "secrets" / target(bench)).write_text(good)
    for _ in range(2):
        jump(bench)
        bench.sweep()
    assert (bench.sandbox.store.is_alive(good), bench.sandbox.store.posts(target(bench))) == (True, 1)


def test_a_fight_ends_in_quarantine_also_when_nothing_ever_settles(bench: Lab) -> None:
    """Somebody rotates after each of our rotations before it settles: the second time it is a person's matter."""
    for _ in range(6):
        with spoilt(bench, sink={"deliver": down}) as (_, desk):
            sweep(desk)
        bench.sandbox.store.rotate(target(bench), "other")
        jump(bench, timedelta(hours=1))
    assert lineage(bench, target(bench)).quarantined_at is not None
    assert bench.sandbox.store.posts(target(bench)) <= 3


def test_refused_calls_do_not_use_up_the_attempts(bench: Lab) -> None:
    """One lost answer, then 429s for a while: once the API has calmed down the secret is made, not quarantined."""
    calls: list[int] = []

    def busy(real: Callable[..., Any], ref: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            real(ref)
            raise OutcomeUnknown("timed out")
        raise Throttled("429")

    for _ in range(4):
        with spoilt(bench, provider={"rotate": busy}) as (_, desk):
            sweep(desk)
        jump(bench, timedelta(hours=1))
    bench.sweep()
    jump(bench)
    bench.sweep()
    assert (lives(bench, target(bench)), lineage(bench, target(bench)).quarantined_at) == (True, None)


def test_a_renamed_token_that_drifted_is_named_in_every_sweep(bench: Lab) -> None:
    """It may not move to its new path, and where it lies it is dead: that is said, and the exit code says it."""
    token_id = target(bench)
    bench.config_path.write_text(bench.config_path.read_text().replace('"{token_id}"', '"{name}"'))
    bench.sweep()
    bench.sandbox.store.update(token_id, "person", "svc-renamed", None)
    bench.sandbox.store.rotate(token_id, "person")
    jump(bench, timedelta(hours=25))
    report = bench.sweep()
    assert report.plan.skipped[Skip.BAD_PATH] == 1
    assert {EventName.DRIFT_FOUND, EventName.PLACE_REFUSED} <= {event.name for event in bench.events}
    assert exit_code(report.results, [report.plan]) == 1


def test_the_place_of_a_deleted_token_is_free_after_two_looks(bench: Lab) -> None:
    """A token that was deleted and made anew under its old name gets the old one's path, but not after one 404."""
    bench.config_path.write_text(bench.config_path.read_text().replace('"{token_id}"', '"{name}"'))
    bench.sweep()
    store = bench.sandbox.store
    old = store.tokens[target(bench)]
    store.delete(old.id)
    new = store.create(Draft(old.name, old.scope, old.entity_id, old.roles[0].role), "person")
    new.created_at = new.start_at = store.now() - 400 * DAY
    assert bench.sweep().plan.skipped == {Skip.BAD_PATH: 1}
    jump(bench)
    assert [(r.token_id, r.outcome) for r in bench.sweep().results] == [(new.id, Outcome.SETTLED)]


def test_nobody_takes_over_a_place_that_belongs_to_another(bench: Lab) -> None:
    """A secret of another token in a settled place is no claim to it."""
    bench.config_path.write_text(bench.config_path.read_text().replace('"{token_id}"', '"shared"'))
    bench.sweep()
    store = bench.sandbox.store
    owner = store.tokens[target(bench)]
    new = store.create(Draft("svc-new", owner.scope, owner.entity_id, owner.roles[0].role), "person")
    (bench.folder / "secrets" / "shared").write_text(store.secret_of(new.id))
    jump(bench, timedelta(hours=25))
    bench.sweep()
    with bench.app(writing=False) as app:
        spot = ("files", str(bench.folder / "secrets" / "shared"))
        assert app.reader.place_owners([spot])[spot] == ("astro", owner.id)


@pytest.mark.parametrize("how", ["timed out", "noted by nobody"])
def test_an_old_member_that_is_gone_leaves_no_ghost(bench: Lab, how: str) -> None:
    """Its delete took effect but was not noted: the next sweep finds it gone, and says that it was retired."""
    add(bench, 'strategy = "overlap"', 'retire = "after_grace"', 'grace = "1h"')
    root = target(bench)
    bench.sweep()
    jump(bench, timedelta(hours=2))

    def late(real: Callable[..., Any], ref: Any) -> None:
        real(ref)
        raise Temporary("timed out after it took effect")

    if how == "timed out":
        with spoilt(bench, provider={"delete": late}) as (_, desk):
            sweep(desk)
    else:
        bench.sandbox.store.delete(root)
    jump(bench)
    bench.sweep()
    assert (root in bench.sandbox.store.tokens, lineage(bench, root).retiring) == (False, ())
    assert EventName.TOKEN_RETIRED in {event.name for event in bench.events}


def test_an_old_member_is_used_again_when_its_successor_was_deleted(bench: Lab) -> None:
    """Somebody deletes the member in use while the old one is in grace: the old one comes back, and its sink lives."""
    add(bench, 'strategy = "overlap"', 'grace = "1d"')
    root = target(bench)
    bench.sweep()
    bench.sandbox.store.delete(bench.sandbox.store.authenticates_as(bench.delivered(root) or "") or "")
    for _ in range(4):
        jump(bench, 2 * DAY)
        bench.sweep()
    assert lives(bench, root)


def test_an_old_member_that_no_policy_selects_any_more_is_named(bench: Lab) -> None:
    """The policy was narrowed while a token was in grace: it is not ended behind anybody's back, and named."""
    add(bench, 'strategy = "overlap"', 'retire = "after_grace"', 'grace = "1h"')
    root = target(bench)
    bench.sweep()
    bench.config_path.write_text(bench.config_path.read_text().replace('"svc-*"', '"other-*"'))
    jump(bench, DAY)
    [result] = bench.sweep().results
    assert (result.token_id, "no policy selects it" in result.message) == (root, True)
    assert root in bench.sandbox.store.tokens


def test_a_twin_that_somebody_rotated_is_ended(bench: Lab) -> None:
    """An unfinished overlap whose twin was rotated by hand is planned anew, and that twin does not live on unnamed."""
    add(bench, 'strategy = "overlap"', 'retire = "after_grace"', 'grace = "1h"')
    root = target(bench)
    unsettled(bench)
    store = bench.sandbox.store
    [twin] = set(store.tokens) - {root, store.owner_id}
    store.rotate(twin, "person")
    for _ in range(3):
        jump(bench, timedelta(hours=2))
        bench.sweep()
    assert twin not in store.tokens
    assert lives(bench, root)


def test_an_open_twin_is_known_by_its_id(bench: Lab) -> None:
    """A twin that has not settled yet is a member: a leak of it is found, and hands keep off it."""
    add(bench, 'strategy = "overlap"')
    root = target(bench)
    unsettled(bench)
    [twin] = set(bench.sandbox.store.tokens) - {root, bench.sandbox.store.owner_id}
    with bench.app() as app:
        [(row, _)] = named(app.desks, [twin]).rows["astro"]
    assert row.token.id == root


def test_a_doubt_outlives_the_leak_that_came_between(bench: Lab) -> None:
    """A POST without an answer may still come late: a leak that goes on with its rotation settles only after that."""
    token_id = target(bench)
    with spoilt(bench, provider={"rotate": refusing(OutcomeUnknown("timed out"))}) as (_, desk):
        sweep(desk)
    with bench.app() as app:
        assert asked(app, app.desks[0], token_id, leaked=True).outcome is Outcome.UNSETTLED
    bench.sandbox.store.rotate(token_id, "late")  # the first POST, at last
    for _ in range(3):
        jump(bench)
        bench.sweep()
    assert lives(bench, token_id)


def test_a_twin_that_was_delivered_but_never_journalled_ends_after_its_replacement(bench: Lab) -> None:
    """The process dies with the journal full right after delivering a twin: no consumer ever reads a dead secret."""
    add(bench, 'strategy = "overlap"', 'grace = "30d"')
    root, store = target(bench), bench.sandbox.store

    def full(real: Callable[..., None], write: Write) -> None:
        if write.rotation is not None and write.rotation.mint_id:
            raise Temporary("no space left")
        real(write)

    class Death(BaseException):
        """The process ends."""

    dying = {"authenticate": refusing(Death())}  # type: ignore[arg-type]
    with spoilt(bench, provider=dying, journal={"write": full}) as (_, desk), pytest.raises(Death):
        sweep(desk)
    first = store.authenticates_as(bench.delivered(root) or "")
    assert first not in (None, root)
    for number in range(3):
        jump(bench)
        bench.sweep()
        assert lives(bench, root)
        assert number or first in store.tokens  # not before another one has settled
    assert store.authenticates_as(bench.delivered(root) or "") not in (first, root)
    assert first not in store.tokens


def test_looking_at_many_tokens_opens_few_connections(tmp_path: Path) -> None:
    """Each page is looked at by the same threads: file descriptors do not grow with the number of tokens."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=1500, limits=False), workers=4) as bench:
        bench.config_path.write_text(bench.config_path.read_text().replace('"90d"', '"9000d"'))
        with bench.app() as app:
            sweep(app.desks[0])
            opened = [link for fd in Path("/proc/self/fd").iterdir() if "rotator.db" in (link := _target(fd))]
        assert 0 < len(opened) < 60


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except OSError:
        return ""


def elsewhere(bench: Lab) -> None:
    """Point the config at another organization."""
    text = bench.config_path.read_text()
    bench.config_path.write_text(text.replace(bench.sandbox.organization_id, "clother"))


@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "from before"])
def test_another_organization_is_never_asked_about_the_tokens_of_this_one(bench: Lab, is_pinned: bool) -> None:
    """It would answer that none exists, which erases seals: whoever writes or shows is refused, and asks nothing."""
    root, good = target(bench), bench.config_path.read_text()
    unsettled(bench)
    if not is_pinned:
        with closing(sqlite3.connect(bench.folder / "rotator.db")) as connection, connection:
            connection.execute("DELETE FROM meta WHERE key LIKE 'organization:%'")
    elsewhere(bench)
    requests = len(bench.sandbox.requests)
    for writing in (True, False):
        refusal = pytest.raises(ConfigError, match=r"providers\.astro\.organization_id.*put .* back")
        with refusal, bench.app(writing=writing):
            pass
    with pytest.raises(ConfigError, match="organization_id"), by_hand(bench.config, "astro", "test", [], bench.clock):
        pass
    assert len(bench.sandbox.requests) == requests
    bench.config_path.write_text(good)
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert (lives(bench, root), bench.sandbox.store.posts(root)) == (True, 1)


def test_an_organization_that_was_mistyped_is_corrected(bench: Lab) -> None:
    """While nothing is remembered nothing is at stake: what a first run was told wrongly binds nobody."""
    good = bench.config_path.read_text()
    elsewhere(bench)
    with pytest.raises(Forbidden):
        bench.sweep()
    bench.config_path.write_text(good)
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]


def test_an_open_rotation_of_another_organization_is_kept_and_named(bench: Lab) -> None:
    """However it got beside this provider, its token is not looked for where it cannot be: its seal stays."""
    root = target(bench)
    unsettled(bench)

    class Elsewhere(Wrapped):
        """The provider of another organization."""

        organization_id = "clother"

    with bench.app() as app:
        provider = Elsewhere(app.desks[0].provider, get=refusing(NotFound("no such token")), authenticate=down)
        desk = replace(app.desks[0], provider=provider)  # type: ignore[arg-type]
        for _ in range(3):
            jump(bench)
            [result] = recover(desk)
            assert result.outcome is Outcome.UNSETTLED
            assert "put providers.astro.organization_id back" in result.message
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert (lives(bench, root), bench.sandbox.store.posts(root)) == (True, 1)


def test_an_organization_that_the_api_calls_otherwise_strands_no_rotation(bench: Lab) -> None:
    """A rotation is of the organization that was configured when it began, whatever its token says."""
    root = target(bench)

    def renamed(token: Token) -> Token:
        return replace(token, organization_id="another-name-of-it")

    provider = {"list": lambda real, part: map(renamed, real(part)), "get": lambda real, ref: renamed(real(ref))}
    with spoilt(bench, provider=provider, sink={"deliver": down}) as (_, desk):
        assert [r.outcome for r in sweep(desk).results] == [Outcome.UNSETTLED]
    assert [r.outcome for r in bench.sweep().results] == [Outcome.SETTLED]
    assert (lives(bench, root), bench.sandbox.store.posts(root)) == (True, 1)
