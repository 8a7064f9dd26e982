"""What waits in the journal to be told outside: who is to be told, of what, and how far history was read for it.

The journal keeps the bodies as they are given: `rotator.notify` knows what they mean. A change is one transaction with
the cursor over `history`, so that every fact is taken in once, in the order in which it was journalled, and a kill -9
between two changes repeats nothing and forgets nothing. Bodies hold no secret, so nothing here is sealed.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

CURSOR = "outbox_cursor"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that waits.

    Attributes:
        kind: What it is.
        owner: Whose: a channel or a hook.
        name: Of the entry, unique for kind and owner.
    """

    kind: str
    owner: str
    name: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be changed together.

    Attributes:
        expected: How far history was read when the change was made; another value by now refuses it.
        cursor: How far it has been read now.
        puts: Written, in place of what has the same kind, owner and name. `drops`: taken away; bodies do not matter.
    """

    expected: int | None
    cursor: int
    puts: tuple[Entry, ...] = ()
    drops: tuple[Entry, ...] = ()


def changing(change: Change) -> Callable[[sqlite3.Connection], bool]:
    """Return what makes a change inside a transaction."""

    def act(connection: sqlite3.Connection) -> bool:
        row = connection.execute("SELECT value FROM meta WHERE key = ?", (CURSOR,)).fetchone()
        if (int(row[0]) if row else None) != change.expected:
            return False
        if change.cursor != change.expected:
            value = str(change.cursor).encode()
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (CURSOR, value))
        connection.executemany(
            "DELETE FROM outbox WHERE kind = ? AND owner = ? AND name = ?",
            [(entry.kind, entry.owner, entry.name) for entry in change.drops],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO outbox VALUES (?, ?, ?, ?)",
            [(entry.kind, entry.owner, entry.name, entry.body) for entry in change.puts],
        )
        return True

    return act
