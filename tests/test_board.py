"""The board: what the page, the metrics and the notifications read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from rotator.board import Board, Snapshot
from rotator.engine.deciding import plan
from rotator.engine.standing import standings
from rotator.events import Event, EventName
from rotator.model import Outcome
from tests.lab import Lab, lab

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def configured(bench: Lab) -> Board:
    """Return a board that knows the lab's config and nothing else."""
    board, config = Board(NOW), bench.config
    providers = {name: table.type for name, table in config.providers.items()}
    board.configure(config.policies, providers, {name: sink.kind for name, sink in config.sinks.items()}, NOW)
    return board


def looked(bench: Lab, board: Board) -> Snapshot:
    """Let the board take where the tokens stand now."""
    with bench.app() as app:
        board.take("astro", standings(app.desks[0], app.reader.every_lineage("astro")), app.clock.now())
        return board.snapshot(app.clock.now())


def test_a_sweep_is_shown(tmp_path: Path) -> None:
    """Policies, tokens, rotations, sinks and provider stand there after one sweep."""
    with lab(tmp_path) as bench:
        due, board = bench.due_ids(), configured(bench)
        bench.sweep()
        for event in bench.events:
            board(event)
        shown = looked(bench, board)
    (policy,) = shown.policies
    assert (policy.outcome, policy.is_swept, policy.success_at is not None) == ("settled", False, True)
    assert shown.total == len(shown.tokens) == shown.counts["services", "fresh"]
    assert sorted(row.token_id for row in shown.rotations) == sorted(due)
    assert {row.outcome for row in shown.rotations} == {"settled"}
    assert [health.is_ok for health in (*shown.providers, *shown.sinks)] == [True, True]


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    """Of more tokens than the board keeps, the most pressing stay and all are counted."""
    with lab(tmp_path) as bench:
        whole, few = looked(bench, Board(NOW)), looked(bench, Board(NOW, max_tokens=2))
    assert (len(few.tokens), few.total) == (2, whole.total)
    assert whole.total > 2
    assert [row.token_id for row in few.tokens] == [row.token_id for row in whole.tokens[:2]]


def test_expiry_wakes(tmp_path: Path) -> None:
    """The board knows the next moment at which a token's expiry makes it due, and only moments ahead."""
    with lab(tmp_path) as bench:
        text = bench.config_path.read_text()
        bench.config_path.write_text(text.replace('max_age = "90d"', 'before_expiry = "1d"\nemergency = "1h"'))
        board, now = Board(NOW), datetime.now(UTC)
        ends = [now + timedelta(hours=hours) for hours in (-5, 0.5, 12, 100, 200)]
        store = bench.sandbox.store
        for token, end in zip((t for t in store.tokens.values() if t.name.startswith("svc-")), ends, strict=False):
            token.end_at = end
        shown = looked(bench, board)
    woken = [row.wake_at for row in shown.tokens if row.wake_at is not None]
    assert all(at > shown.at for at in woken)
    assert len(woken) >= 3  # of those that end in half a day or later; half an hour ahead only `expired` is to come
    assert board.wakes()["services"] == min(woken)


def test_another_config_keeps_what_it_still_names(tmp_path: Path) -> None:
    """What is known of a policy survives a reload; what is gone vanishes; a refused config leaves all as it was."""
    with lab(tmp_path) as bench:
        board = configured(bench)
        board(Event(name=EventName.SWEEP_STARTED, at=NOW, policy="services"))
        board(Event(name=EventName.SWEEP_FINISHED, at=NOW, policy="services", outcome=Outcome.FAILED))
        board.refuse_config("it is broken")
        assert board.snapshot(NOW).config_problem == "it is broken"
        later = NOW + timedelta(hours=1)
        board.configure(bench.config.policies, {"astro": "astro"}, {"other": "file"}, later)
        shown = board.snapshot(later)
    assert (shown.config_problem, shown.config_at) == ("", later)
    assert [row.outcome for row in shown.policies] == ["failed"]
    assert [health.name for health in shown.sinks] == ["other"]


def test_what_lags_is_known_by_sink_and_policy(tmp_path: Path) -> None:
    """Sinks that lack a secret, old secrets still to be ended, clock skew and our credential's end are shown."""
    with lab(tmp_path) as bench:
        path = bench.config_path
        path.write_text(path.read_text().replace("max_percent = 100", 'max_percent = 100\nstrategy = "overlap"'))
        due, board = bench.due_ids(), configured(bench)
        bench.sweep()
        (tmp_path / "secrets" / due[0]).unlink()
        assert bench.clock is not None
        bench.clock.jump(timedelta(hours=25))
        before = looked(bench, board)
        with bench.app() as app:
            plan(app.desks[0], app.desks[0].policies)  # it looks at the sinks, and mends nothing
        for event in bench.events:
            board(event)
        board(Event(name=EventName.CREDENTIAL_READ, at=NOW, provider="astro", location="env:X", expires_at=NOW))
        after = looked(bench, board)
    assert before.retirements == {"services": len(due)}
    assert ([sink.behind for sink in before.sinks], [sink.behind for sink in after.sinks]) == ([0], [1])
    assert [provider.skew is not None for provider in after.providers] == [True]
    assert after.credentials == {"env:X": NOW}
    board.configure((), {"other": "astro"}, {}, NOW)
    gone = board.snapshot(NOW)
    assert (gone.retirements, gone.credentials, gone.sinks, gone.tokens) == ({}, {}, (), ())
