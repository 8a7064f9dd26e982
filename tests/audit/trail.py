"""A real journal with its audit file, written as the engine writes."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rotator.audit import AuditFile, Author
from rotator.events import Event, EventName
from rotator.journal.sealing import KeySource
from rotator.journal.sqlite import SqliteJournal, open_journal
from rotator.ports import Write
from rotator.secret import Secret

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, name: str = "svc", **facts: object) -> Event:
    """A fact."""
    chosen = {"name": EventName.TOKEN_ROTATED, "token_id": f"t{number}", "message": f"m{number}"} | facts
    return Event(at=START + timedelta(minutes=number), token_name=name, **chosen)  # type: ignore[arg-type]


@contextmanager
def journal(folder: Path, actor: str = "sweep") -> Iterator[SqliteJournal]:
    """The journal in a folder, with `audit.jsonl` beside it."""
    source = KeySource("env:KEY", Secret(base64.b64encode(b"k" * 32).decode()))
    opened = open_journal(folder / "rotator.db", source, AuditFile(folder / "audit.jsonl", Author(actor, "i1")))
    try:
        yield opened
    finally:
        opened.close()


def say(opened: SqliteJournal, first: int, count: int = 1) -> None:
    """Write facts, one commit each."""
    for number in range(first, first + count):
        opened.write(Write(events=(event(number),)))
