"""Sinks that take a secret and never show it again, and sinks that do something once it has arrived."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.errors import NotFound, Temporary
from rotator.events import EventName
from rotator.model import Held, Mint, Outcome, Place, Reason, Receipt
from rotator.ports import Sink
from tests.engine.test_drift import by_hand, file_of, later, lives, posts, settled, two_sinks
from tests.engine.test_overlap import alive, overlapping, sweep
from tests.lab import Lab, lab

DAY = timedelta(days=1)


class _Wrapped:
    """A real sink with a part of it replaced."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __getattr__(self, name: str) -> object:
        return getattr(self._sink, name)


class _Silent(_Wrapped):
    """It says which version it holds, never which secret."""

    says_version = True

    def read_back(self, place: Place) -> Held:
        """Keep the secret back."""
        held = self._sink.read_back(place)
        return Held(None, version=held.version if self.says_version else "")


class _Mute(_Silent):
    """It says nothing at all of what it holds."""

    says_version = False


def _restarting(done: list[tuple[str, str]], fails: Callable[[], bool]) -> type[_Wrapped]:
    class Restarting(_Wrapped):
        def follow_up(self, place: Place, mint: Mint) -> None:
            """Restart somebody."""
            if fails():
                raise Temporary("the workload cannot be restarted now")
            done.append((place.location, mint.id))

    return Restarting


@pytest.mark.parametrize("kind", [_Silent, _Mute])
def test_what_is_only_attested_settles_and_stays_quiet(tmp_path: Path, kind: type[_Silent]) -> None:
    """A token whose sink cannot be read settles as attested, and no later look calls it drifted or unknown."""
    with lab(tmp_path) as bench:
        bench.wraps["files"] = kind  # type: ignore[assignment]
        root = settled(bench)
        assert later(bench) == {}
        assert posts(bench, root) == 1
        assert not [event for event in bench.events if event.name is EventName.DRIFT_FOUND]


def test_a_write_by_somebody_else_is_shown_and_never_acted_on(tmp_path: Path) -> None:
    """Another version in a sink that cannot be read may be a live secret: it is named, nothing is rotated."""
    with lab(tmp_path) as bench:
        bench.wraps["files"] = _Silent  # type: ignore[assignment]
        root = settled(bench)
        file_of(bench, root).write_text("something else, perhaps alive")
        assert later(bench) == {}
        found = [event for event in bench.events if event.name is EventName.DRIFT_FOUND and event.token_id == root]
        assert "somebody else wrote to it" in found[0].message
        assert posts(bench, root) == 1


def test_rotated_by_hand_makes_what_we_wrote_dead(tmp_path: Path) -> None:
    """Rotated in the UI while the sink holds our version: the value there is dead, so the token is rotated."""
    with lab(tmp_path) as bench:
        bench.wraps["files"] = _Silent  # type: ignore[assignment]
        root = settled(bench)
        by_hand(bench, root)
        assert later(bench) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert lives(bench, root)


def test_a_live_secret_in_a_readable_sink_is_copied_to_one_that_is_not(tmp_path: Path) -> None:
    """Rotated by hand and put into the readable sink: copied from there, under a mint of its own."""
    with lab(tmp_path) as bench:
        two_sinks(bench)
        bench.wraps["copies"] = _Silent  # type: ignore[assignment]
        root = settled(bench)
        secret = by_hand(bench, root)
        file_of(bench, root).write_text(secret)
        before = posts(bench, root)
        assert later(bench) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert posts(bench, root) == before
        assert lives(bench, root, "copies")


def test_an_attested_value_is_no_source_to_copy_from(tmp_path: Path) -> None:
    """The readable sink lost its file and the other cannot be read: only a new secret brings both together."""
    with lab(tmp_path) as bench:
        two_sinks(bench)
        bench.wraps["copies"] = _Silent  # type: ignore[assignment]
        root = settled(bench)
        file_of(bench, root).unlink()
        assert later(bench) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert lives(bench, root)
        assert lives(bench, root, "copies")
        assert posts(bench, root) == 2


def test_a_change_before_the_proof_is_delivered_again(tmp_path: Path) -> None:
    """Another version at verification than the receipt's says that somebody wrote in between: not settled by that."""
    with lab(tmp_path) as bench:

        class Raced(_Silent):
            def read_back(self, place: Place) -> Held:
                held = super().read_back(place)
                return replace(held, version="theirs") if raced[0] else held

        raced = [True]
        bench.wraps["files"] = Raced  # type: ignore[assignment]
        due = bench.due_ids()
        assert {r.outcome for r in bench.sweep().results} == {Outcome.UNSETTLED}
        raced[0] = False
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        assert {posts(bench, root) for root in due} == {1}


def test_an_old_member_retires_although_the_sink_cannot_be_read(tmp_path: Path) -> None:
    """The sink's own word that it still holds our mint is the proof before the old token ends."""
    with lab(tmp_path) as bench:
        overlapping(bench, retire="after_grace", grace="2d")
        bench.wraps["files"] = _Silent  # type: ignore[assignment]
        due = bench.due_ids()
        assert set(sweep(bench).values()) == {Outcome.SETTLED}
        assert set(sweep(bench, 2 * DAY)) == set(due)
        assert not [root for root in due if root in bench.sandbox.store.tokens]
        assert all(alive(bench, root) for root in due)


def test_an_old_member_lives_on_where_somebody_else_wrote(tmp_path: Path) -> None:
    """A sink that holds another version than ours may hold the old secret: the old token is not ended."""
    with lab(tmp_path) as bench:
        overlapping(bench, retire="after_grace", grace="2d")
        bench.wraps["files"] = _Silent  # type: ignore[assignment]
        due = bench.due_ids()
        assert set(sweep(bench).values()) == {Outcome.SETTLED}
        for root in due:
            file_of(bench, root).write_text("rolled back by somebody")
        sweep(bench, 2 * DAY)
        assert all(root in bench.sandbox.store.tokens for root in due)


def test_a_follow_up_comes_after_all_sinks_and_before_settlement(tmp_path: Path) -> None:
    """Readers are restarted once a mint, when every required sink holds it."""
    done: list[tuple[str, str]] = []
    with lab(tmp_path) as bench:
        two_sinks(bench)
        bench.wraps["files"] = _restarting(done, lambda: False)  # type: ignore[assignment]
        due = bench.due_ids()
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        assert sorted(location for location, _ in done) == sorted(str(file_of(bench, root)) for root in due)
        assert bench.sweep().results == []
        assert len(done) == len(due)


def test_a_follow_up_that_fails_is_unsettled_and_repeated(tmp_path: Path) -> None:
    """The secret has arrived but its readers were not restarted: unsettled by name, and done by the next sweep."""
    done: list[tuple[str, str]] = []
    is_down = [True]
    with lab(tmp_path) as bench:
        bench.wraps["files"] = _restarting(done, lambda: is_down[0])  # type: ignore[assignment]
        results = bench.sweep().results
        assert {r.outcome for r in results} == {Outcome.UNSETTLED}
        assert all("cannot be restarted" in r.message for r in results)
        is_down[0] = False
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        assert len({mint for _, mint in done}) == len(done) == len(results)
        assert {posts(bench, r.token_id) for r in results} == {1}


def test_what_is_redelivered_is_followed_up(tmp_path: Path) -> None:
    """Whoever reads a sink that was mended is restarted too."""
    done: list[tuple[str, str]] = []
    with lab(tmp_path) as bench:
        two_sinks(bench)
        bench.wraps["files"] = _restarting(done, lambda: False)  # type: ignore[assignment]
        root = settled(bench)
        file_of(bench, root).unlink()
        done.clear()
        assert later(bench) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert [location for location, _ in done] == [str(file_of(bench, root))]


def three_sinks(bench: Lab) -> None:
    """Deliver to three folders, of which the second cannot be read."""
    two_sinks(bench)
    third = '[[policies.services.deliver]]\nsink = "thirds"\npath = "{token_id}"\n'
    third += '[sinks.thirds]\ntype = "file"\ndirectory = "thirds"\n'
    bench.config_path.write_text(bench.config_path.read_text() + third)
    bench.wraps["copies"] = _Silent  # type: ignore[assignment]


def test_a_redelivery_elsewhere_forgets_no_version(tmp_path: Path) -> None:
    """One sink is mended, another is rolled back to the old secret: the old member lives on for its readers."""
    with lab(tmp_path) as bench:
        three_sinks(bench)
        overlapping(bench, retire="after_grace", grace="3d")
        root = bench.due_ids()[0]
        old = bench.sandbox.store.secret_of(root)
        assert set(sweep(bench).values()) == {Outcome.SETTLED}
        file_of(bench, root, "thirds").unlink()
        assert sweep(bench, timedelta(hours=25)) == {alive(bench, root): Outcome.SETTLED}
        file_of(bench, root, "copies").write_text(old)
        sweep(bench, timedelta(hours=25))
        sweep(bench, 2 * DAY)
        assert bench.sandbox.store.is_alive(old)


def test_a_value_that_somebody_else_wrote_is_not_called_dead(tmp_path: Path) -> None:
    """After a redelivery a person rotates and updates only the sink that cannot be read: that value is left alive."""
    with lab(tmp_path) as bench:
        three_sinks(bench)
        root = settled(bench)
        file_of(bench, root, "thirds").unlink()
        assert later(bench) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        file_of(bench, root, "copies").write_text(by_hand(bench, root))
        before = posts(bench, root)
        later(bench)
        assert posts(bench, root) == before


def test_a_mute_sink_is_no_proof_before_a_delete(tmp_path: Path) -> None:
    """A sink that says nothing may hold the old secret: after_grace alone does not end the old member."""
    with lab(tmp_path) as bench:
        overlapping(bench, retire="after_grace", grace="2d")
        bench.wraps["files"] = _Mute  # type: ignore[assignment]
        due = bench.due_ids()
        old = {root: bench.sandbox.store.secret_of(root) for root in due}
        assert set(sweep(bench).values()) == {Outcome.SETTLED}
        sweep(bench, 2 * DAY)
        assert all(bench.sandbox.store.is_alive(secret) for secret in old.values())
        told = [event.message for event in bench.events if event.name is EventName.RETIREMENT_DELAYED]
        assert any("does not say what it holds" in message for message in told)


def test_readers_of_a_mended_sink_are_told_in_the_end(tmp_path: Path) -> None:
    """A redelivery whose follow-up fails is not forgotten: the next sweep tells the readers."""
    done: list[tuple[str, str]] = []
    is_down = [False]
    with lab(tmp_path) as bench:
        two_sinks(bench)
        bench.wraps["files"] = _restarting(done, lambda: is_down[0])  # type: ignore[assignment]
        root = settled(bench)
        file_of(bench, root, "copies").write_text(by_hand(bench, root))
        done.clear()
        is_down[0] = True
        assert later(bench) == {root: (Reason.DRIFTED, Outcome.FAILED)}
        assert lives(bench, root)
        assert later(bench, timedelta(minutes=5)) == {root: (Reason.DRIFTED, Outcome.FAILED)}
        is_down[0] = False
        assert later(bench, timedelta(minutes=5)) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert [location for location, _ in done] == [str(file_of(bench, root))]
        assert later(bench) == {}


def test_a_death_after_a_copy_forgets_no_reader(tmp_path: Path) -> None:
    """Whoever dies between the copy and the telling told nobody: the next sweep does, of the very same mint."""
    done: list[tuple[str, str]] = []
    dies, mints = [False], list[str]()

    class Dying(_restarting(done, lambda: False)):  # type: ignore[misc]
        def deliver(self, place: Place, mint: Mint) -> Receipt:
            mints.append(mint.id)
            return self._sink.deliver(place, mint)  # type: ignore[no-any-return]

        def follow_up(self, place: Place, mint: Mint) -> None:
            if dies[0]:
                raise KeyboardInterrupt
            super().follow_up(place, mint)

    with lab(tmp_path) as bench:
        two_sinks(bench)
        bench.wraps["files"] = Dying  # type: ignore[assignment]
        root = settled(bench)
        file_of(bench, root, "copies").write_text(by_hand(bench, root))
        done.clear()
        mints.clear()
        dies[0] = True
        with pytest.raises(KeyboardInterrupt):
            later(bench)
        assert lives(bench, root)
        dies[0] = False
        assert later(bench, timedelta(minutes=5)) == {root: (Reason.DRIFTED, Outcome.SETTLED)}
        assert done == [(str(file_of(bench, root)), mints[0])]
        assert later(bench) == {}


def test_readers_of_one_sink_do_not_wait_for_another(tmp_path: Path) -> None:
    """In place the old secret is dead: who reads the sink that works is told although the other is down."""
    done: list[tuple[str, str]] = []
    with lab(tmp_path) as bench:

        class Down(_Wrapped):
            def deliver(self, place: Place, mint: Mint) -> Receipt:
                raise Temporary("down for hours")

        two_sinks(bench)
        bench.wraps |= {"files": _restarting(done, lambda: False), "copies": Down}  # type: ignore[dict-item]
        due = bench.due_ids()
        assert {r.outcome for r in bench.sweep().results} == {Outcome.UNSETTLED}
        assert len(done) == len(due)


def test_a_reader_that_is_gone_for_good_holds_nothing_up(tmp_path: Path) -> None:
    """A workload that was removed meanwhile cannot be told and need not be: it is said, and the rotation settles."""
    with lab(tmp_path) as bench:

        class Gone(_Wrapped):
            def follow_up(self, place: Place, mint: Mint) -> None:
                raise NotFound("the workload does not exist")

        bench.wraps["files"] = Gone  # type: ignore[assignment]
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        assert any("does not exist" in event.message for event in bench.events)
