"""`rotator explain` as users run it: one token, every answer, and one clear sentence where there is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.sandbox import Fault
from tests.cli.running import rotator, told
from tests.lab import Lab, lab

SECOND = """
[policies.second]
select.scopes = ["organization", "workspace", "deployment"]
when.max_age = "1d"
[[policies.second.deliver]]
sink = "files"
path = "second/{name}"
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab in real time with two policies, six tokens, three of them due."""
    with lab(tmp_path, jumping=False) as made:
        made.config_path.write_text(made.config_path.read_text() + SECOND)
        yield made


def holding(said: dict[str, list[dict[str, object]]], key: str) -> list[object]:
    """Return the names of the rows that hold."""
    return [row.get("reason") or row.get("name") for row in said[key] if row["holds"]]


def test_a_due_token_is_explained_by_id_and_by_name(bench: Lab) -> None:
    """Owner, overlap, conditions and places are there, nothing is written, and both ways to name it say the same."""
    due = bench.due_ids()[0]
    before = sorted(bench.folder.rglob("*"))
    said = told(bench, "explain", due)
    assert (said["policy"], said["due"], said["state"]) == ("services", "max_age", "due")
    assert [(row["policy"], row["owns"], row["overlaps"]) for row in said["policies"]] == [
        ("services", True, False), ("second", False, True),
    ]  # fmt: skip
    assert holding(said, "conditions") == ["max_age"]
    assert [place["location"] for place in said["places"]] == [str(bench.folder / "secrets" / due)]
    assert said["lineage"] is None
    named = told(bench, "explain", bench.sandbox.store.tokens[due].name)
    assert (named["token"], named["holds"]) == (said["token"], said["holds"])
    assert sorted(bench.folder.rglob("*")) == before
    shown = rotator(bench, "explain", due).stdout
    assert "selects it too, but another policy comes first" in shown
    assert "Nothing is remembered of it" in shown


def test_a_settled_token_shows_its_lineage_and_a_moved_place(bench: Lab) -> None:
    """After a sweep the lineage is shown; a place that another config moves is named before it is due."""
    due = bench.due_ids()[0]
    assert rotator(bench, "sweep").returncode == 0
    bench.config_path.write_text(bench.config_path.read_text().replace('path = "{token_id}"', 'path = "new/{name}"'))
    said = told(bench, "explain", due)
    assert (said["skip"], said["lineage"]["root"], said["lineage"]["members"]) == ("not_due", due, [due])
    assert [place["moved"] for place in said["places"]] == [True]
    assert "--accept-move" in said["place_problem"]


def test_a_place_of_another_token_is_named(bench: Lab) -> None:
    """A place that another lineage owns is shown with its owner, and holds the token back."""
    first, second, *_ = bench.due_ids()
    text = bench.config_path.read_text()
    only = text.replace('names = ["svc-*"]', f'ids = ["{first}"]').replace('"{token_id}"', '"shared"')
    bench.config_path.write_text(only.replace(SECOND, ""))
    assert rotator(bench, "sweep").returncode == 0
    bench.config_path.write_text(bench.config_path.read_text().replace(first, second))
    said = told(bench, "explain", second)
    assert (said["skip"], [place["owned_by"] for place in said["places"]]) == ("bad_path", [first])
    assert first in said["place_problem"]


def test_two_due_tokens_on_one_place_are_explained_as_the_plan_decides(bench: Lab) -> None:
    """Of two that would take the same place the plan lets one go; the other is explained as held back by it."""
    bench.config_path.write_text(bench.config_path.read_text().replace('"{token_id}"', '"shared"'))
    plan = told(bench, "plan")
    held = next(row for row in plan["skipped"] if row["reason"] == "bad_path")
    said = told(bench, "explain", held["token_id"])
    assert (said["skip"], said["message"]) == ("bad_path", held["message"])


def test_an_open_rotation_is_explained_as_unsettled(bench: Lab) -> None:
    """An unanswered call shows as the condition that holds, with the state of its rotation."""
    due = bench.due_ids()[0]
    bench.sandbox.script("rotate", Fault.RESET_BEFORE, due)
    rotator(bench, "sweep")
    said = told(bench, "explain", due)
    assert (said["state"], said["due"], said["lineage"]["open_state"]) == ("in_doubt", "unsettled", "in_doubt")
    assert holding(said, "conditions")[0] == "unsettled"


def test_tokens_outside_every_policy_are_explained_too(bench: Lab) -> None:
    """A token of a scope that no policy names is found, and each policy says why it leaves it out."""
    text = bench.config_path.read_text().replace(SECOND, "")
    bench.config_path.write_text(text.replace('"organization", "workspace", "deployment"', '"workspace"'))
    said = told(bench, "explain", "rotator-credential")
    assert (said["policy"], said["policies"][0]["says_no"]) == (None, "scopes")


def test_our_own_credential_says_why_it_is_not_renewed(bench: Lab) -> None:
    """No delivery writes what its reference reads: said although it is not due yet."""
    said = told(bench, "explain", bench.sandbox.store.owner_id)
    assert "no required delivery writes exactly where its reference" in said["place_problem"]


def test_unknown_and_ambiguous_words_exit_2_with_ids(bench: Lab) -> None:
    """Nothing or several: exit 2, and the ids that may be meant."""
    unknown = rotator(bench, "explain", "svc")
    assert (unknown.returncode, "alike are: cl" in unknown.stderr) == (2, True)
    first, second, *_ = bench.due_ids()
    bench.sandbox.store.tokens[second].name = bench.sandbox.store.tokens[first].name
    both = rotator(bench, "explain", bench.sandbox.store.tokens[first].name)
    assert both.returncode == 2
    assert first in both.stderr
    assert second in both.stderr


def test_what_the_provider_no_longer_lists_is_explained_from_memory(bench: Lab) -> None:
    """A token that was settled and then deleted by somebody still has its places and its history of states."""
    due = bench.due_ids()[0]
    assert rotator(bench, "sweep").returncode == 0
    bench.sandbox.store.delete(due)
    said = told(bench, "explain", due)
    assert said["lineage"]["places"] == [f"files:{bench.folder / 'secrets' / due}"]
    assert "the provider does not list it" in rotator(bench, "explain", due).stdout
