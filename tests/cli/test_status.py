"""`rotator status` at 3 a.m.: which token is in which state, and what to do next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rotator.planning import NEXT, STATES
from rotator.sandbox import Fault
from tests.cli.running import rotator, told
from tests.lab import Lab, lab


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab in real time, six tokens, three of them due."""
    with lab(tmp_path, jumping=False) as made:
        yield made


def rows(bench: Lab) -> dict[str, dict[str, Any]]:
    """Return what status says, by token id."""
    return {row["token_id"]: row for row in told(bench, "status")["tokens"]}


def edit(bench: Lab, old: str, new: str) -> None:
    """Change the config."""
    text = bench.config_path.read_text()
    assert old in text
    bench.config_path.write_text(text.replace(old, new))


def by_hand(bench: Lab, token_id: str) -> None:
    """Rotate as a person does in the UI, without telling anybody."""
    bench.sandbox.store.rotate(token_id, bench.sandbox.store.owner_id)


def test_an_open_rotation_says_its_state_and_the_next_step(bench: Lab) -> None:
    """In doubt and unsettled are told apart, each with its open state and its hint; fresh ones have no hint."""
    doubted, lost, *_ = bench.due_ids()
    bench.sandbox.script("rotate", Fault.RESET_BEFORE, doubted)
    bench.sandbox.script("rotate", Fault.RESET_AFTER, lost)
    assert rotator(bench, "sweep").returncode == 1
    found = rows(bench)
    assert (found[doubted]["state"], found[doubted]["open_state"]) == ("in_doubt", "in_doubt")
    assert (found[lost]["state"], found[lost]["open_state"]) == ("unsettled", "unsettled")
    assert "rotator settle" in found[doubted]["next"]
    fresh = [row for row in found.values() if row["state"] == "fresh"]
    assert fresh
    assert not any({"next", "drift", "retiring", "open_state", "quarantine_reason"} & row.keys() for row in fresh)


def test_drift_and_then_quarantine_are_shown_with_their_reasons(bench: Lab) -> None:
    """Rotated elsewhere is drifted, with what mends it once a look has found out; the second fight is quarantined."""
    token_id = bench.due_ids()[0]
    rotator(bench, "sweep")
    edit(bench, "[policies.services]\n", '[policies.services]\non_drift = "alert"\n')
    by_hand(bench, token_id)
    assert rows(bench)[token_id]["state"] == "drifted"
    rotator(bench, "sweep")
    drift = rows(bench)[token_id]["drift"]
    assert (drift["kind"], drift["heal"]) == ("rotated_elsewhere", "rotate")
    assert "no sink holds a live secret" in drift["message"]
    edit(bench, 'on_drift = "alert"\n', "")
    assert rotator(bench, "sweep").returncode == 0
    by_hand(bench, token_id)
    assert rotator(bench, "sweep").returncode == 5
    found = rows(bench)[token_id]
    assert (found["state"], "somebody fights us" in found["quarantine_reason"]) == ("quarantined", True)
    assert f"rotator release {token_id}" in found["next"]


def test_an_old_token_in_grace_is_retiring_and_its_twin_is_fresh(bench: Lab) -> None:
    """The old member says when it ends; the member in use names it; neither passes for drifted."""
    edit(bench, "[policies.services]\n", '[policies.services]\nstrategy = "overlap"\n')
    olds = bench.due_ids()
    assert rotator(bench, "sweep").returncode == 0
    found = rows(bench)
    assert {found[old]["state"] for old in olds} == {"retiring"}
    twins = {
        row["retiring"][0]["token_id"]: row
        for row in found.values()
        if row["token_id"] not in olds and "retiring" in row
    }
    assert twins.keys() == set(olds)
    assert {row["state"] for row in twins.values()} == {"fresh"}
    assert all(row["retiring"][0]["due_at"] for row in twins.values())
    edit(bench, 'names = ["svc-*"]', 'names = ["nothing"]')
    left = rows(bench)
    assert {row["state"] for row in left.values()} == {"retiring"}
    assert all("NOT ENDED" in row["message"] for row in left.values())


def test_open_rotations_are_shown_whatever_the_config_says(bench: Lab) -> None:
    """Deselected, of a scope that is not listed any more, or deleted: what is open is still there, with what to do."""
    deselected, deleted, other = bench.due_ids()
    for token_id in (deselected, deleted, other):
        bench.sandbox.script("rotate", Fault.RESET_BEFORE, token_id)
    rotator(bench, "sweep")
    bench.sandbox.store.delete(deleted)
    edit(bench, 'names = ["svc-*"]', 'names = ["nothing"]')
    found = rows(bench)
    assert {token_id: row["reason"] for token_id, row in found.items()} == {
        deselected: "not_selected", deleted: "not_listed", other: "not_selected",
    }  # fmt: skip
    assert {row["state"] for row in found.values()} == {"in_doubt"}
    assert all(row["policy"] == "" and "rotator settle" in row["next"] for row in found.values())


def test_a_provider_that_no_policy_uses_any_more_is_not_forgotten(bench: Lab) -> None:
    """A renamed provider leaves its open rotations behind: they are shown, with how to go on."""
    due = bench.due_ids()[0]
    bench.sandbox.script("rotate", Fault.RESET_BEFORE, due)
    rotator(bench, "sweep")
    edit(bench, "[providers.astro]", "[providers.renamed]")
    left = [row for row in told(bench, "status")["tokens"] if row["state"] == "in_doubt"]
    assert [row["token_id"] for row in left] == [due]
    assert "put [providers.astro] back" in left[0]["message"]


def test_a_token_that_was_deleted_by_hand_is_gone(bench: Lab) -> None:
    """Gone is shown although the provider lists nothing, and its hint names what is left to do."""
    due = bench.due_ids()[0]
    rotator(bench, "sweep")
    assert rotator(bench, "tokens", "delete", due, "--yes", "--force").returncode == 0
    found = rows(bench)[due]
    assert (found["state"], found["reason"]) == ("gone", "not_listed")
    assert "remove its secret" in found["next"]


def test_the_table_shows_the_worst_first_and_counts_the_states(bench: Lab) -> None:
    """Rows in the order of the states, a footer that counts them, and one line for what to do in each."""
    doubted, lost, _ = bench.due_ids()
    bench.sandbox.script("rotate", Fault.RESET_BEFORE, doubted)
    bench.sandbox.script("rotate", Fault.RESET_AFTER, lost)
    rotator(bench, "sweep")
    lines = rotator(bench, "status").stdout.splitlines()
    shown = [line.split("│")[2].strip() for line in lines if line.count("│") > 5]
    shown = [state for state in shown if state]
    assert shown == sorted(shown, key=STATES.index)
    assert shown[:2] == ["in_doubt", "unsettled"]
    assert "1 in_doubt, 1 unsettled, 4 fresh" in lines
    assert f"  in_doubt: {NEXT['in_doubt']}" in lines


def test_every_state_but_fresh_says_what_to_do() -> None:
    """One table holds the states of the contract, in its order, each with a hint."""
    contract = "quarantined in_doubt unsettled drifted expired due retiring paused unknown gone fresh skipped"
    assert list(STATES) == contract.split()
    assert [state for state in STATES if not NEXT[state]] == ["fresh"]


def test_states_are_streamed_and_lineages_read_in_bulk(bench: Lab) -> None:
    """Each page of tokens costs one look into the journal, however many of its lineages are unfinished."""
    for token_id in bench.due_ids():
        bench.sandbox.script("rotate", Fault.RESET_BEFORE, token_id)
    rotator(bench, "sweep")
    edit(bench, 'names = ["svc-*"]', 'names = ["nothing"]')
    from dataclasses import replace

    from rotator.engine.standing import standings

    with bench.app(writing=False) as app:
        desk, reads = app.desks[0], []

        class Counting:
            def lineages(self, provider: str, ids: list[str]) -> object:
                reads.append(len(ids))
                return app.reader.lineages(provider, ids)

            def open_rotations(self, provider: str) -> object:
                return app.reader.open_rotations(provider)

        counted = replace(desk, journal=Counting())  # type: ignore[arg-type]
        found = list(standings(counted, app.reader.every_lineage("astro")))
    assert len(found) == 3
    assert len(reads) == 1
