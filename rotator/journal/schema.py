"""The tables of the SQLite journal and how older ones are brought up to date."""

import sqlite3

from rotator.errors import ConfigError

MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE lineages (
        provider TEXT NOT NULL, lineage TEXT NOT NULL, token_id TEXT NOT NULL, version INTEGER NOT NULL,
        body BLOB NOT NULL, PRIMARY KEY (provider, lineage)
    ) STRICT;
    CREATE INDEX lineages_by_token ON lineages (provider, token_id);
    CREATE TABLE rotations (
        rotation_id TEXT PRIMARY KEY, provider TEXT NOT NULL, lineage TEXT NOT NULL, owner TEXT,
        opened_at TEXT NOT NULL, closed_at TEXT, sealed BLOB, body BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX one_open_rotation ON rotations (provider, lineage) WHERE closed_at IS NULL;
    CREATE TABLE places (
        sink TEXT NOT NULL, location TEXT NOT NULL, provider TEXT NOT NULL, lineage TEXT NOT NULL,
        PRIMARY KEY (sink, location)
    ) STRICT;
    CREATE TABLE history (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, token_id TEXT NOT NULL, rotation_id TEXT NOT NULL, body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX history_by_token ON history (token_id);
    """,
    """
    CREATE TABLE holds (
        provider TEXT NOT NULL, lineage TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (provider, lineage)
    ) STRICT;
    """,
    """
    CREATE TABLE members (
        provider TEXT NOT NULL, token_id TEXT NOT NULL, lineage TEXT NOT NULL, PRIMARY KEY (provider, token_id)
    ) STRICT;
    CREATE INDEX members_of ON members (provider, lineage);
    INSERT INTO members SELECT provider, token_id, lineage FROM lineages;
    DROP INDEX lineages_by_token;
    """,
    """
    CREATE TABLE outbox (
        kind TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, owner, name)
    ) STRICT;
    """,
)


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the schema up to date, all steps in one transaction.

    Raises:
        ConfigError: A newer rotator wrote this journal.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise ConfigError.of(
            "journal.url", f"{path} was written by a newer rotator (schema {version}); upgrade this one"
        )
    if version == len(MIGRATIONS):
        return
    script = "".join(MIGRATIONS[version:])
    connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {len(MIGRATIONS)}; COMMIT;")
