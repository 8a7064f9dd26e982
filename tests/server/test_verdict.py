"""The one sentence that the page says first."""

from dataclasses import replace

import pytest

from rotator.board import Health, Snapshot
from rotator.server.verdict import Level, judge
from tests.server.boards import HOUR, MINUTE, NOW, beginning, board, calm, policy, token, trouble

FAILING = Health("vault", "vault", None, NOW, "denied")


@pytest.mark.parametrize(
    ("snapshot", "level", "sentence"),
    [
        (calm(), Level.WELL, "All well: 40 tokens, next sweep in 12 min"),
        (board([token(1)]), Level.WELL, "All well: 1 token, next sweep in 12 min"),
        (board([]), Level.WELL, "All well: 0 tokens, next sweep in 12 min"),
        (board([], policies=(policy("a", next_at=NOW - HOUR),)), Level.WELL, "All well: 0 tokens, a sweep is due now"),
        (board([], policies=(policy("a", next_at=None),)), Level.WELL, "All well: 0 tokens"),
        (board([], policies=(policy("a", started_at=NOW),)), Level.WELL, "All well: 0 tokens, a sweep is under way"),
        (beginning(), Level.STARTING, "No sweep yet: the first is in 12 min"),
        (trouble(), Level.TROUBLE, "9 tokens need a person"),
        (board([token(1, "expired")]), Level.TROUBLE, "1 token needs a person"),
        (board([token(1, "in_doubt")]), Level.WARNING, "1 token is in doubt"),
        (board([token(1, "drifted"), token(2, "drifted")]), Level.WARNING, "2 tokens are drifted"),
        (board([token(1, "unknown")]), Level.WARNING, "1 token is unknown: a sink is unreadable"),
        (board([], sinks=(FAILING,)), Level.WARNING, "The sink vault fails"),
        (board([], sinks=(FAILING,) * 5), Level.WARNING, "5 sinks (vault, vault, vault and 2 more) fail"),
        (board([], providers=(FAILING,)), Level.WARNING, "The provider vault does not answer as it should"),
        (board([], config_problem="x"), Level.WARNING, "The newest config was refused, the one before stays in force"),
        (
            board([], policies=(policy("a", outcome="failed"),)),
            Level.WARNING,
            "The last sweep of a did not end well",
        ),
    ],
)
def test_sentences(snapshot: Snapshot, level: Level, sentence: str) -> None:
    """Each state has its sentence."""
    verdict = judge(snapshot, "")
    assert (verdict.level, verdict.sentence) == (level, sentence)


def test_what_is_not_ready_comes_first() -> None:
    """Whatever else there is, a daemon that can do no work says so."""
    verdict = judge(trouble(), "the journal cannot be written")
    assert verdict.sentence == "Not ready: the journal cannot be written"
    assert verdict.more[0] == "9 tokens need a person"


def test_tokens_beyond_those_kept_count() -> None:
    """The verdict goes by all tokens, not by those that the board keeps rows of."""
    counted = replace(calm(), counts={("services", "quarantined"): 1200})
    assert judge(counted, "").sentence == "1,200 tokens need a person"


def test_the_nearest_sweep_is_named() -> None:
    """Of several policies the next one counts."""
    rows = (policy("a", next_at=NOW + 3 * HOUR), policy("b", next_at=NOW + 5 * MINUTE))
    assert judge(board([], policies=rows), "").sentence.endswith("next sweep in 5 min")
