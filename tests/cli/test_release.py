"""`rotator release` and `rotator history`: a person's word, and the whole story of a credential by any of its ids."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.engine.releasing import release
from rotator.errors import Temporary
from rotator.events import EventName
from rotator.model import Lineage
from rotator.ports import Write
from rotator.sandbox import Fault
from tests.cli.running import rotator, told
from tests.lab import Lab, lab

DAY = timedelta(days=1)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab in real time, six tokens, three of them due."""
    with lab(tmp_path, jumping=False) as made:
        yield made


def by_hand(bench: Lab, token_id: str) -> None:
    """Rotate as a person does in the UI, without telling anybody."""
    bench.sandbox.store.rotate(token_id, bench.sandbox.store.owner_id)


def fought(bench: Lab) -> str:
    """Return a token that was quarantined because somebody fights us."""
    token_id = bench.due_ids()[0]
    for code in (0, 0, 5):
        assert rotator(bench, "sweep").returncode == code
        by_hand(bench, token_id) if code == 0 else None
    return token_id


def moved(bench: Lab) -> None:
    """Let every secret go elsewhere from now on."""
    bench.config_path.write_text(bench.config_path.read_text().replace('"{token_id}"', '"{name}-{token_id}"'))


def lineage_of(bench: Lab, token_id: str) -> Lineage:
    """Return what the journal remembers."""
    with bench.app() as app:
        return app.reader.lineages("astro", [token_id])[token_id]


def test_a_released_token_goes_on_in_the_next_sweep(bench: Lab) -> None:
    """The quarantine is lifted by name, the fight forgotten, and the next sweep mends what it could not before."""
    token_id = fought(bench)
    name = bench.sandbox.store.tokens[token_id].name
    run = rotator(bench, "release", name)
    assert (run.returncode, f"{name} ({token_id})" in run.stdout, "somebody fights us" in run.stdout) == (0, True, True)
    assert rotator(bench, "sweep").returncode == 0
    assert bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") == token_id
    released = [row for row in told(bench, "history", token_id)["history"] if row["event"] == "token_released"]
    assert ["the quarantine is lifted" in row["message"] for row in released] == [True]


def test_a_token_that_nothing_holds_is_left_as_it_is(bench: Lab) -> None:
    """Said in words, nothing written, exit 0."""
    token_id = bench.due_ids()[0]
    rotator(bench, "sweep")
    before = lineage_of(bench, token_id)
    run = rotator(bench, "release", token_id)
    assert (run.returncode, "nothing was changed" in run.stdout) == (0, True)
    assert lineage_of(bench, token_id) == before


def test_a_new_place_is_accepted_by_name(bench: Lab) -> None:
    """`--accept-move` lets the secret go where the config now says, and says so."""
    token_id = bench.due_ids()[0]
    rotator(bench, "sweep")
    moved(bench)
    run = rotator(bench, "release", token_id, "--accept-move")
    assert (run.returncode, "may go to a new place" in run.stdout) == (0, True)
    assert lineage_of(bench, token_id).move_accepted


@pytest.mark.parametrize("settled", [True, False])
def test_no_move_is_accepted_in_advance(bench: Lab, settled: bool) -> None:
    """It would stay until the next rename, whatever that is: exit 2, says where it settled, and nothing is changed."""
    due = bench.due_ids()
    known = [token.id for token in bench.sandbox.store.tokens.values() if token.name.startswith("svc-")]
    token_id = due[0] if settled else next(other for other in known if other not in due)
    rotator(bench, "sweep")
    before = lineage_of(bench, token_id)
    run = rotator(bench, "release", token_id, "--accept-move")
    said = str(bench.folder / "secrets" / token_id) if settled else "has not settled anywhere"
    assert (run.returncode, said in run.stderr, "no move to accept" in run.stderr) == (2, True, True)
    assert lineage_of(bench, token_id) == before


def test_an_open_rotation_is_settled_first(bench: Lab) -> None:
    """While a rotation is open nothing is released, with a pointer to settle."""
    token_id = bench.due_ids()[0]
    bench.sandbox.script("rotate", Fault.RESET_BEFORE, token_id)
    rotator(bench, "sweep")
    run = rotator(bench, "release", token_id, "--accept-move")
    assert (run.returncode, "rotator settle" in run.stderr) == (1, True)
    assert not lineage_of(bench, token_id).move_accepted


def test_words_that_name_nothing_or_several_exit_2(bench: Lab) -> None:
    """Unknown is said as such; of several with one name the ids are listed."""
    assert rotator(bench, "release", "nobody").returncode == 2
    first, second, *_ = bench.due_ids()
    bench.sandbox.store.tokens[second].name = bench.sandbox.store.tokens[first].name
    rotator(bench, "sweep")
    run = rotator(bench, "release", bench.sandbox.store.tokens[first].name)
    assert run.returncode == 2
    assert first in run.stderr
    assert second in run.stderr


def test_what_a_sweep_learnt_meanwhile_is_kept(tmp_path: Path) -> None:
    """The record is compared and set: a write between reading and releasing survives, and the release goes on top."""
    with lab(tmp_path) as bench:
        token_id = bench.due_ids()[0]
        bench.sweep()
        moved(bench)
        with bench.app() as app:
            desk, journal = app.desks[0], app.desks[0].journal
            held = journal.lineages("astro", [token_id])[token_id]
            journal.remember(Write(lineage=replace(held, quarantined_at=desk.clock.now(), quarantine_reason="why")))

            class Racing:
                """A journal that somebody else writes to each time a lineage has been read."""

                races = 1

                def __getattr__(self, name: str) -> object:
                    return getattr(journal, name)

                def lineages(self, provider: str, ids: list[str]) -> object:
                    found = journal.lineages(provider, ids)
                    if self.races:
                        self.races -= 1
                        journal.remember(Write(lineage=replace(found[token_id], mint_id="learnt")))
                    return found

            racing = replace(desk, journal=Racing())  # type: ignore[arg-type]
            assert "the quarantine is lifted" in release(racing, token_id, accept_move=False)
            after = journal.lineages("astro", [token_id])[token_id]
            assert (after.quarantined_at, after.mint_id) == (None, "learnt")
            racing.journal.races = 99  # type: ignore[attr-defined]
            with pytest.raises(Temporary, match="try again"):
                release(racing, token_id, accept_move=True)
        assert EventName.TOKEN_RELEASED in {event.name for event in bench.events}


def test_history_finds_every_member_by_any_id_or_name(tmp_path: Path) -> None:
    """After two overlaps the first id, an ended one in the middle, the one in use and the name tell one story."""
    with lab(tmp_path) as bench:
        text = bench.config_path.read_text()
        overlap = '[policies.services]\nstrategy = "overlap"\nretire = "after_grace"\ngrace = "1d"\n'
        bench.config_path.write_text(text.replace("[policies.services]\n", overlap))
        assert bench.clock is not None
        root = bench.due_ids()[0]
        name = bench.sandbox.store.tokens[root].name
        members = []
        for after in (timedelta(), 2 * DAY, 91 * DAY, 2 * DAY):
            bench.clock.jump(after)
            bench.sweep()
            members.append(bench.sandbox.store.authenticates_as(bench.delivered(root) or ""))
        middle, last = members[0], members[-1]
        assert len({root, middle, last}) == 3
        stories = [told(bench, "history", str(word))["history"] for word in (root, middle, last, name)]
        assert all(story == stories[0] for story in stories)
        assert {row["token_id"] for row in stories[0]} >= {root, middle}
        assert [row["event"] for row in stories[0]].count("token_retired") == 2
        assert rotator(bench, "release", str(last)).stdout.startswith(f"{name} ({last})")
