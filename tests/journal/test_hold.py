"""Holding a lineage: what a person works on by hand, no sweep touches, and the other way round."""

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rotator.audit import AuditFile, Author, verify
from rotator.errors import Temporary
from rotator.events import Event, EventName
from rotator.journal.schema import MIGRATIONS
from rotator.journal.sealing import KeySource
from rotator.journal.sqlite import SqliteJournal, open_journal
from rotator.model import Generation, Lineage, Reason, Rotation, Scope, State
from rotator.ports import Write
from rotator.secret import Secret

KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
AT = datetime(2026, 1, 1, tzinfo=UTC)
LINEAGE = Lineage("astro", "t1", "t1", "svc")
FACT = Event(name=EventName.ROTATION_INTENDED, at=AT, token_id="t1", rotation_id="r1")


@contextmanager
def opened(folder: Path) -> Iterator[SqliteJournal]:
    source = KeySource("env:KEY", Secret(KEY), folder / "rotator.key")
    journal = open_journal(folder / "rotator.db", source, AuditFile(folder / "audit.jsonl", Author("test", "i")))
    try:
        yield journal
    finally:
        journal.close()


def opens(journal: SqliteJournal, version: int = 0, token_id: str = "t1") -> bool:
    rotation = Rotation(
        f"r-{token_id}", "astro", token_id, token_id, "p", Reason.MAX_AGE, State.INTENDED, "svc", Scope.WORKSPACE,
        "org", Generation(None, AT), AT, (), posts=1,
    )  # fmt: skip
    return journal.open(rotation, Lineage("astro", token_id, token_id, "svc", version=version), (FACT,))


def test_no_rotation_opens_while_a_lineage_is_held(tmp_path: Path) -> None:
    """Neither by the holder's own process nor by another, and nothing is announced; other lineages are free."""
    with opened(tmp_path) as mine, opened(tmp_path) as theirs:
        with mine.hold("astro", "t1"):
            assert not opens(mine)
            assert not opens(theirs)
            assert opens(theirs, token_id="t2")
        assert opens(theirs)
    assert verify(tmp_path / "audit.jsonl").lines == 2


def test_only_one_holds(tmp_path: Path) -> None:
    """A second hold says that somebody is at it, in the same process too; then it is free, also after an error."""
    with opened(tmp_path) as mine, opened(tmp_path) as theirs:
        with mine.hold("astro", "t1"):
            for journal in (mine, theirs):
                with pytest.raises(Temporary, match="by hand"), journal.hold("astro", "t1"):
                    pass
            with theirs.hold("astro", "t2"), theirs.hold("other", "t1"):
                pass
        with pytest.raises(ZeroDivisionError), theirs.hold("astro", "t1"):
            raise ZeroDivisionError
        with mine.hold("astro", "t1"):
            pass


def test_an_open_rotation_cannot_be_held(tmp_path: Path) -> None:
    """It is finished first, and the message says how; once it is closed, it can."""
    with opened(tmp_path) as journal:
        assert opens(journal)
        with pytest.raises(Temporary, match="rotator settle"), journal.hold("astro", "t1"):
            pass
        (rotation,) = journal.open_rotations("astro")
        journal.write(Write(rotation=replace(rotation, state=State.REFUSED, closed_at=AT)))
        with journal.hold("astro", "t1"):
            pass


def test_a_write_under_a_hold_stops_who_looked_before(tmp_path: Path) -> None:
    """The record moves, so that a rotation planned before the hold does not open after it."""
    with opened(tmp_path) as journal:
        with journal.hold("astro", "t1"):
            journal.write(Write(lineage=LINEAGE))
        assert not opens(journal, version=0)
        assert opens(journal, version=1)


def hold_and_die(folder: Path) -> None:
    with opened(folder) as journal, journal.hold("astro", "t1"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    """After a kill -9 in the middle of a hold, rotations open and others hold at once."""
    with opened(tmp_path):
        pass
    child = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    with sqlite3.connect(tmp_path / "rotator.db") as raw:
        assert raw.execute("SELECT count(*) FROM holds").fetchone() == (1,)
    raw.close()
    with opened(tmp_path) as journal:
        with journal.hold("astro", "t1"):
            pass
        assert opens(journal)


def test_a_journal_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """Its rows stay, and lineages can be held."""
    raw = sqlite3.connect(tmp_path / "rotator.db", isolation_level=None)
    raw.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1;")
    raw.execute("INSERT INTO places VALUES ('files', '/x', 'astro', 't1')")
    raw.close()
    with opened(tmp_path) as journal:
        assert journal.place_owners([("files", "/x")]) == {("files", "/x"): ("astro", "t1")}
        with journal.hold("astro", "t1"):
            assert not opens(journal)


def test_a_failing_release_does_not_hide_what_was_done(tmp_path: Path) -> None:
    """If the journal cannot be written at the end of a hold, the block's own result stands."""
    with opened(tmp_path) as journal, journal.hold("astro", "t1"):
        raw = sqlite3.connect(tmp_path / "rotator.db", isolation_level=None)
        raw.execute("DROP TABLE holds")
        raw.close()
