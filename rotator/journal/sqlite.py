"""The journal on SQLite: WAL, one writing thread with group commit, readers that only read.

Automatic checkpoints are off: they happen in `erase`, under the inter-process lock (see `writer`). A rotation is held
by `owner` = instance and a number; a dead instance holds nothing, so a kill -9 frees everything at once, and every
write of a rotation is fenced by its owner. A lineage that a person works on by hand is held in the same way.
"""

import contextlib
import itertools
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rotator.audit import Head, Shipped
from rotator.errors import ConfigError, NoLongerHeld, NotFound, Permanent, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.journal.lock import FileLock, Instances, refuse_network_file_system
from rotator.journal.outbox import CURSOR, Change, Entry, changing
from rotator.journal.rows import decode, encode, translated
from rotator.journal.schema import migrate
from rotator.journal.sealing import Fingerprints, Keyring, KeySource, key_id_of, sync_folder
from rotator.journal.writer import Job, Trail, Writer
from rotator.model import Lineage, Outcome, Rotation
from rotator.ports import Write
from rotator.recent import Recent
from rotator.secret import Secret

MINIMUM_FREE_BYTES = 4 * 1024 * 1024
_FINGERPRINT = ("journal", "fingerprint key")  # the associated data of the sealed fingerprint key
_CHUNK = 500
_BUSY_S = 10
# A journal from before organizations were pinned has it in its rotations; without lineages nothing is at stake.
_ORGANIZATION = (
    "SELECT coalesce((SELECT CAST(value AS TEXT) FROM meta WHERE key = 'organization:' || ?1),"
    " (SELECT json_extract(CAST(body AS TEXT), '$.organization_id') FROM rotations"
    " WHERE provider = ?1 ORDER BY rowid DESC LIMIT 1))"
    " WHERE EXISTS (SELECT 1 FROM lineages WHERE provider = ?1)"
)
_READERS_MS = 1000  # how long erasing waits for readers: other processes wait for the lock meanwhile


class Reader:
    """Reads a journal: never writes, never locks out a writer, needs no key.

    Args:
        path: A journal; one that does not exist yet is read as an empty one.
        keys: The sealing keys; without them secrets cannot be compared with what was settled.
    """

    def __init__(self, path: Path, keys: KeySource | None = None) -> None:
        self._path = path
        self._reading_keys = keys
        self._idle: deque[sqlite3.Connection] = deque()
        self._connections: list[sqlite3.Connection] = []

    def lineages(self, provider: str, token_ids: Sequence[str]) -> Mapping[str, Lineage]:
        """See `ports.Journal`."""
        found: dict[str, Lineage] = {}
        for start in range(0, len(token_ids), _CHUNK):
            chunk = token_ids[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            join = "SELECT m.token_id, l.version, l.body FROM members m JOIN lineages l USING (provider, lineage)"
            sql = f"{join} WHERE m.provider = ? AND m.token_id IN ({marks})"
            found |= {row[0]: _lineage(*row[1:]) for row in self._rows(sql, (provider, *chunk))}
        return found

    def open_rotations(self, provider: str) -> Sequence[Rotation]:
        """See `ports.Journal`."""
        sql = "SELECT body FROM rotations WHERE provider = ? AND closed_at IS NULL ORDER BY opened_at, rotation_id"
        return [decode(body, Rotation) for (body,) in self._rows(sql, (provider,))]

    def all_open_rotations(self) -> Sequence[Rotation]:
        """Return the open rotations of every provider, also of those that the config no longer knows."""
        sql = "SELECT body FROM rotations WHERE closed_at IS NULL ORDER BY opened_at, rotation_id"
        return [decode(body, Rotation) for (body,) in self._rows(sql, ())]

    def place_owners(self, places: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], tuple[str, str]]:
        """See `ports.Journal`."""
        claims = "SELECT sink, location, provider, lineage FROM places WHERE sink = ?1 AND"
        keys = "location > ?2 || '#' AND location < ?2 || '$'"  # all of `file#`: $ is the sign behind #
        sql = f"{claims} location IN (?2, ?3) UNION ALL {claims} {keys}"
        found = [row for sink, spot in places for row in self._rows(sql, (sink, spot, spot.rpartition("#")[0]))]
        return {(sink, spot): (provider, lineage) for sink, spot, provider, lineage in found}

    def fingerprint(self, secret: Secret) -> str:
        """See `ports.Journal`; empty where there is no journal yet or its key is not there."""
        prints = self._known_fingerprints()
        return prints.of(secret) if prints is not None else ""

    def mac(self, text: str) -> str:
        """See `ports.Journal`; likewise."""
        prints = self._known_fingerprints()
        return prints.mac(text) if prints is not None else ""

    def _known_fingerprints(self) -> Fingerprints | None:
        keys = self._reading_keys
        rows = self._rows("SELECT value FROM meta WHERE key = 'fingerprint_key'", ())
        if keys is None or keys.text is None or not rows:
            return None
        keyring = Keyring(keys.text, keys.reference)
        return Fingerprints(keyring.open(rows[0][0], *_FINGERPRINT)) if key_id_of(rows[0][0]) in keyring else None

    def history(self, token_id: str | None = None) -> Iterator[Event]:
        """Yield what happened, oldest first, to one token or to all."""
        sql = "SELECT body FROM history WHERE (?1 IS NULL OR token_id = ?1) AND seq > ?2 ORDER BY seq LIMIT 1000"
        paged = sql.replace("body", "seq, body", 1)
        after = 0
        while rows := self._rows(paged, (token_id, after)):
            yield from (decode(body, Event) for _, body in rows)
            after = rows[-1][0]

    def history_after(self, seq: int, limit: int = 1000) -> list[tuple[int, Event | None]]:
        """Return facts with their numbers, oldest first; None for one that only a newer version can read.

        Args:
            seq: Those behind this one.
            limit: At most so many.
        """
        sql = "SELECT seq, body FROM history WHERE seq > ? ORDER BY seq LIMIT ?"
        return [(number, _readable(body)) for number, body in self._rows(sql, (seq, limit))]

    def last_seq(self) -> int:
        """Return the number of the latest fact; 0 if there is none."""
        return max(
            (int(seq) for (seq,) in self._rows("SELECT max(seq) FROM history HAVING max(seq) > 0", ())), default=0
        )

    def rotation(self, rotation_id: str) -> Rotation | None:
        """Return a rotation, open or closed; None if there is none."""
        rows = self._rows("SELECT body FROM rotations WHERE rotation_id = ?", (rotation_id,))
        return decode(rows[0][0], Rotation) if rows else None

    def outbox(self) -> tuple[int | None, list[Entry]]:
        """Return how far history was read for the outbox, None if it never was, and what waits in it."""
        cursor = self._rows("SELECT value FROM meta WHERE key = ?", (CURSOR,))
        entries = self._rows("SELECT kind, owner, name, body FROM outbox ORDER BY kind, owner, name", ())
        return (int(cursor[0][0]) if cursor else None), [Entry(*row) for row in entries]

    def last_sweeps(self, policies: Sequence[str]) -> Mapping[str, tuple[Event, datetime | None]]:
        """Return by policy the last `sweep_finished` and when one last settled everything, as far as is remembered.

        Args:
            policies: Those that are looked for; the search ends with the last 10,000 facts that are about no token.
        """
        sql = "SELECT body FROM history WHERE token_id = '' ORDER BY seq DESC LIMIT 10000"
        found: dict[str, tuple[Event, datetime | None]] = {}
        for (body,) in self._rows(sql, ()):
            event = _readable(body)
            if event is None or event.name is not EventName.SWEEP_FINISHED or event.policy not in policies:
                continue
            last, success_at = found.get(event.policy, (event, None))
            found[event.policy] = last, success_at or (event.at if event.outcome is Outcome.SETTLED else None)
            if len(found) == len(policies) and all(success_at for _, success_at in found.values()):
                break
        return found

    def overlapped(self, provider: str) -> Sequence[Lineage]:
        """See `ports.Journal`."""
        sql = (
            "SELECT version, body FROM lineages WHERE provider = ?1 AND lineage IN"
            " (SELECT lineage FROM members WHERE provider = ?1 AND token_id != lineage) ORDER BY lineage"
        )
        return [_lineage(*row) for row in self._rows(sql, (provider,))]

    def providers(self) -> list[str]:
        """Return the names of the providers of which anything is remembered."""
        return [name for (name,) in self._rows("SELECT DISTINCT provider FROM lineages ORDER BY provider", ())]

    def organization(self, provider: str) -> str:
        """Return the organization whose credentials are remembered under a provider's name; empty while none are."""
        return next((found for (found,) in self._rows(_ORGANIZATION, (provider,)) if found), "")

    def every_lineage(self, provider: str) -> Iterator[Lineage]:
        """Yield all that is remembered of a provider's credentials, page by page."""
        found = "SELECT lineage, version, body FROM lineages WHERE provider = ? AND lineage > ?"
        sql = f"{found} ORDER BY lineage LIMIT 1000"
        after = ""
        while rows := self._rows(sql, (provider, after)):
            yield from (_lineage(*row[1:]) for row in rows)
            after = rows[-1][0]

    def find_lineages(self, provider: str, word: str) -> list[Lineage]:
        """Return the lineages whose token id, root id or name is `word`."""
        every = self.every_lineage(provider)
        return [lineage for lineage in every if word in (lineage.id, lineage.name, *lineage.members)]

    def family(self, provider: str, word: str) -> frozenset[str]:
        """Return every id that the credentials which `word` names by any id or name have had, ended ones included."""
        token, twin = (f"json_extract(CAST(body AS TEXT), '$.{key}')" for key in ("token_id", "successor"))
        roots = {lineage.id for lineage in self.find_lineages(provider, word)}
        sql = f"SELECT DISTINCT lineage FROM rotations WHERE provider = ?1 AND ?2 IN ({token}, {twin})"  # noqa: S608
        roots |= {root for (root,) in self._rows(sql, (provider, word))}
        sql = f"SELECT {token}, {twin} FROM rotations WHERE provider = ? AND lineage = ?"  # noqa: S608 - no user's text
        once = {member for root in roots for row in self._rows(sql, (provider, root)) for member in row if member}
        alive = {member for row in self.lineages(provider, sorted(roots)).values() for member in row.members}
        return frozenset(roots | once | alive)

    def audit_head(self) -> Head | None:
        """Return the last audit line that was announced; None if there is none."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'audit_head'", ())
        return decode(rows[0][0], Head) if rows else None

    def audit_shipped(self) -> Shipped | None:
        """Return how far the audit's HTTP receiver has come; None before the first time."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'audit_shipped'", ())
        return decode(rows[0][0], Shipped) if rows else None

    def close(self) -> None:
        """Close what was opened, in whichever thread."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._idle.clear()

    def _rows(self, sql: str, arguments: Sequence[object]) -> list[Any]:
        if not self._path.exists():
            return []
        try:
            connection = self._borrowed()
            try:
                return connection.execute(sql, tuple(arguments)).fetchall()
            finally:
                self._idle.append(connection)
        except sqlite3.Error as error:
            raise translated(error) from None

    def _borrowed(self) -> sqlite3.Connection:
        """Return a connection that nobody else uses now: threads come and go, so none of them keeps one."""
        with suppress(IndexError):
            return self._idle.pop()
        connection = _connect(self._path, "ro")
        self._connections.append(connection)
        return connection


class SqliteJournal(Reader):
    """See `ports.Journal`. Build it with `open_journal`."""

    def __init__(
        self,
        path: Path,
        keys: KeySource,
        trail: Trail,
        on_audit_failure: Callable[[str], None],
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__(path)
        brand_new = not path.exists()
        self._keyring = Keyring(_key_text(keys, path, brand_new), keys.reference)
        with contextlib.ExitStack() as undo:
            self._lock = FileLock(path.with_name(path.name + ".lock"))
            undo.callback(self._lock.close)
            if brand_new:
                _create(path)
            self._writing = _connect(path, "rw")
            undo.callback(self._writing.close)
            with self._lock.held():
                migrate(self._writing, str(path))
                self._fingerprints = Fingerprints(self._fingerprint_key(path))
            self._instances = Instances(path.with_name(path.name + ".instances"), self._lock)
            undo.pop_all()
        self._numbers = itertools.count(1)
        self._held: dict[str, str] = {}
        self._proven: Recent[object] = Recent(monotonic)
        self._holding: set[str] = set()
        self._writer = Writer(self._writing, self._lock, trail, on_audit_failure)

    def open(self, rotation: Rotation, lineage: Lineage, events: tuple[Event, ...]) -> bool:
        """See `ports.Journal`."""
        owner = self._owner()

        def change(connection: sqlite3.Connection) -> bool:
            is_as_read, holder = _standing(connection, lineage)
            if not is_as_read or (holder and self._is_at_work(holder)):
                return False
            if not _claimed(connection, lineage, rotation.claims):
                return False
            connection.execute(
                "INSERT INTO rotations (rotation_id, provider, lineage, owner, opened_at, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    rotation.id,
                    rotation.provider,
                    rotation.lineage,
                    owner,
                    rotation.opened_at.isoformat(),
                    encode(rotation),
                ),
            )
            _put_lineage(connection, lineage)
            return True

        won = False
        self._held[rotation.id] = owner  # before the row says so: our other threads must not take it for let go
        try:
            won = bool(self._writer.submit(Job(change, events, must_audit=True)))
        finally:
            if not won:
                self._held.pop(rotation.id, None)
        return won

    def claim(self, rotation_id: str) -> Rotation | None:
        """See `ports.Journal`."""
        owner = self._owner()

        def change(connection: sqlite3.Connection) -> Rotation | None:
            row = connection.execute(
                "SELECT owner, body FROM rotations WHERE rotation_id = ? AND closed_at IS NULL", (rotation_id,)
            ).fetchone()
            if row is None or (row[0] and self._is_at_work(row[0])):
                return None
            connection.execute("UPDATE rotations SET owner = ? WHERE rotation_id = ?", (owner, rotation_id))
            self._held[rotation_id] = owner
            return decode(row[1], Rotation)

        try:
            rotation = self._writer.submit(Job(change, durable=False))
        except RotatorError:
            if self._held.get(rotation_id) == owner:
                del self._held[rotation_id]
            raise
        return rotation if isinstance(rotation, Rotation) else None

    def release(self, rotation_id: str) -> None:
        """See `ports.Journal`."""
        owner = self._held.pop(rotation_id, None)
        if owner is None:
            return
        sql = "UPDATE rotations SET owner = NULL WHERE rotation_id = ? AND owner = ?"
        self._writer.submit(Job(lambda c: c.execute(sql, (rotation_id, owner)), durable=False))

    @contextmanager
    def hold(self, provider: str, lineage_id: str) -> Iterator[None]:
        """See `ports.Journal`."""
        owner = self._owner()

        def take(connection: sqlite3.Connection) -> None:
            if connection.execute(
                "SELECT 1 FROM rotations WHERE provider = ? AND lineage = ? AND closed_at IS NULL",
                (provider, lineage_id),
            ).fetchone():
                raise Temporary(f"a rotation of {lineage_id} is open; finish it first: `rotator settle`")
            if self._is_held(connection, provider, lineage_id):
                raise Temporary(f"somebody works on {lineage_id} by hand at this moment; try again when they are done")
            connection.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?)", (provider, lineage_id, owner))

        self._holding.add(owner)
        try:
            self._writer.submit(Job(take, durable=False))
            try:
                yield
            finally:
                with contextlib.suppress(Temporary, Permanent):  # full or locked: nobody believes the row any more
                    sql = "DELETE FROM holds WHERE owner = ?"
                    self._writer.submit(Job(lambda c: c.execute(sql, (owner,)), durable=False))
        finally:
            self._holding.discard(owner)

    def write(self, write: Write) -> None:
        """See `ports.Journal`."""
        sealed = None
        if write.rotation is not None and write.secret is not None:
            mint_id, token_id = write.rotation.mint_id, write.rotation.minted_token_id
            sealed = self._keyring.seal(write.secret.encoded(), mint_id, token_id)

        def change(connection: sqlite3.Connection) -> bool:
            if write.rotation is not None:
                self._put_rotation(connection, write.rotation, sealed)
            if write.lineage is not None:
                _put_lineage(connection, write.lineage)
                closes = write.rotation is not None and write.rotation.closed_at is not None
                _put_claims(connection, write.lineage, write.claims, closes=closes)
            return True

        self._writer.submit(Job(change, write.events, write.must_audit, write.durable))
        if write.rotation is not None and write.rotation.closed_at is not None:
            self._held.pop(write.rotation.id, None)

    def remember(self, *writes: Write) -> tuple[bool, ...]:
        """See `ports.Journal`."""
        jobs = [Job(_noting(write), write.events, write.must_audit, write.durable) for write in writes]
        return tuple([bool(outcome) for outcome in self._writer.submit_all(jobs)])

    def change_outbox(self, change: Change) -> bool:
        """Commit a change of the outbox; False, with nothing changed, if another process was faster.

        Raises:
            Temporary, Permanent: Nothing was written.
        """
        return bool(self._writer.submit(Job(changing(change), durable=False)))

    def secret(self, rotation: Rotation) -> Secret:
        """See `ports.Journal`."""
        rows = self._rows("SELECT sealed FROM rotations WHERE rotation_id = ?", (rotation.id,))
        if not rows or rows[0][0] is None:
            raise NotFound(f"the journal holds no sealed secret for rotation {rotation.id}")
        return Secret.decoded(self._keyring.open(rows[0][0], rotation.mint_id, rotation.minted_token_id))

    def fingerprint(self, secret: Secret) -> str:
        """See `ports.Journal`."""
        return self._fingerprints.of(secret)

    def mac(self, text: str) -> str:
        """See `ports.Journal`."""
        return self._fingerprints.mac(text)

    def pin_organization(self, provider: str, organization: str) -> str:
        """Remember which organization a provider's name stands for, and return it: not this one if another is known.

        Raises:
            Temporary, Permanent: Nothing was written.
        """
        key = f"organization:{provider}"

        def change(connection: sqlite3.Connection) -> str:
            (known,) = connection.execute(_ORGANIZATION, (provider,)).fetchone() or ("",)
            if known in (None, "", organization):
                connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, organization.encode()))
            return known or organization

        rows = self._rows("SELECT CAST(value AS TEXT) FROM meta WHERE key = ?", (key,))
        return organization if rows == [(organization,)] else str(self._writer.submit(Job(change)))

    def mark_shipped(self, shipped: Shipped, *events: Event) -> None:
        """Remember how far the audit's HTTP receiver has come; if a power cut undoes that, it gets lines again.

        Raises:
            Temporary, Permanent: Nothing was written.
        """
        sql = "INSERT OR REPLACE INTO meta VALUES ('audit_shipped', ?)"
        self._writer.submit(Job(lambda c: c.execute(sql, (encode(shipped),)), events, durable=bool(events)))

    def preflight(self) -> None:
        """See `ports.Journal`."""
        free = os.statvfs(self._path.parent)
        if free.f_bavail * free.f_frsize < MINIMUM_FREE_BYTES:
            raise Temporary(f"less than {MINIMUM_FREE_BYTES >> 20} MiB are free for the journal in {self._path.parent}")
        self._proven.get("", lambda: self._writer.submit(Job(_heartbeat, must_audit=True, durable=False)))

    def erase(self) -> bool:
        """See `ports.Journal`."""
        with self._lock.held():
            try:
                self._writing.execute(f"PRAGMA busy_timeout = {_READERS_MS}").fetchall()
                [(busy, _, _)] = self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._writing.execute(f"PRAGMA busy_timeout = {_BUSY_S}000").fetchall()
                return not busy
            except sqlite3.Error as error:
                raise translated(error) from None

    def close(self) -> None:
        """Finish what is queued, let go of what is held, leave no erased seal behind."""
        for rotation_id in list(self._held):
            self.release(rotation_id)
        self._writer.close()
        super().close()
        with contextlib.suppress(Temporary, Permanent):  # busy or full: the next sweep erases
            self.erase()
        self._writing.close()
        self._instances.close()
        self._lock.close()

    def _owner(self) -> str:
        return f"{self._instances.me}:{next(self._numbers)}"

    def _is_at_work(self, owner: str) -> bool:
        """Whether the owner of a row still works; a full disk may have kept our letting go unwritten."""
        instance = owner.partition(":")[0]
        if instance == self._instances.me:
            return owner in self._holding or owner in list(self._held.values())
        return self._instances.alive(instance)

    def _is_held(self, connection: sqlite3.Connection, provider: str, lineage_id: str) -> bool:
        row = connection.execute(
            "SELECT owner FROM holds WHERE provider = ? AND lineage = ?", (provider, lineage_id)
        ).fetchone()
        return row is not None and self._is_at_work(row[0])

    def _put_rotation(self, connection: sqlite3.Connection, rotation: Rotation, sealed: bytes | None) -> None:
        changed: dict[str, object] = {"body": encode(rotation)}
        if rotation.closed_at is not None:
            changed |= {"closed_at": rotation.closed_at.isoformat(), "owner": None, "sealed": None}
        elif sealed is not None:
            changed["sealed"] = sealed
        columns = ", ".join(f"{name} = ?" for name in changed)
        sql = f"UPDATE rotations SET {columns} WHERE rotation_id = ? AND owner = ? AND closed_at IS NULL"  # noqa: S608 - only names
        found = connection.execute(sql, (*changed.values(), rotation.id, self._held.get(rotation.id))).rowcount
        if found != 1:
            raise NoLongerHeld(f"rotation {rotation.id} is no longer held by this process")

    def _fingerprint_key(self, path: Path) -> bytes:
        """Return the journal's own key, made with it, re-sealed when the sealing key was rotated."""
        row = self._writing.execute("SELECT value FROM meta WHERE key = 'fingerprint_key'").fetchone()
        if row is None:
            key = os.urandom(32)
        elif key_id_of(row[0]) not in self._keyring:
            raise ConfigError.of(
                "journal.key",
                f"{path} was sealed with key {key_id_of(row[0]).hex()}, which {self._keyring.reference} does not hold;"
                " put that key back (behind the new one, if you rotate keys). Nothing was written and nothing is lost",
            )
        else:
            key = self._keyring.open(row[0], *_FINGERPRINT)
        if row is None or key_id_of(row[0]) != self._keyring.active:
            sealed = self._keyring.seal(key, *_FINGERPRINT)
            self._writing.execute("INSERT OR REPLACE INTO meta VALUES ('fingerprint_key', ?)", (sealed,))
        return key


def open_journal(
    path: Path,
    keys: KeySource,
    trail: Trail,
    on_audit_failure: Callable[[str], None] = lambda _: None,
    monotonic: Callable[[], float] = time.monotonic,
) -> SqliteJournal:
    """Open a journal, or make a new one with a new sealing key.

    Args:
        path: The database; `-wal`, `-shm`, `.lock` and `.instances` lie beside it.
        keys: The sealing keys.
        trail: Where audit lines go, inside each commit.
        on_audit_failure: Told when a line that may be missing is missing.
        monotonic: Returns seconds that never go back: how long one token's preflight serves the others.

    Raises:
        ConfigError: The folder, the key or the file cannot be used; nothing was written.
        Temporary: Another process holds the lock, or the disk is full.
    """
    path = path.resolve()  # by another name, too, it has these very locks beside it
    mounts = Path("/proc/self/mounts")
    refuse_network_file_system(path.parent, mounts.read_text() if mounts.exists() else "")
    try:
        return SqliteJournal(path, keys, trail, on_audit_failure, monotonic)
    except sqlite3.Error as error:
        failure = translated(error)
        if isinstance(failure, Permanent):
            raise ConfigError.of("journal.url", f"{path}: {failure.message}") from None
        raise failure from None
    except OSError as error:
        raise ConfigError.of("journal.url", f"cannot use {path}: {error.strerror}") from None


def _key_text(keys: KeySource, path: Path, brand_new: bool) -> Secret:
    if keys.text is not None:
        return keys.text
    if brand_new:
        return keys.create()
    raise ConfigError.of(
        "journal.key",
        f"{keys.reference} does not exist, but the journal {path} does, and may hold sealed secrets; put the key back."
        " Nothing was written and nothing is lost",
    )


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    sync_folder(path.parent)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    reading = ("query_only = ON",)
    writing = ("journal_mode = WAL", "wal_autocheckpoint = 0", "secure_delete = ON", "temp_store = MEMORY")
    try:
        for pragma in reading if mode == "ro" else writing:
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _standing(connection: sqlite3.Connection, lineage: Lineage) -> tuple[bool, str | None]:
    """Return whether nobody changed a lineage since it was read and no rotation of it is open, and who holds it."""
    version, is_open, holder = connection.execute(
        "SELECT ifnull((SELECT version FROM lineages WHERE provider = ?1 AND lineage = ?2), 0), EXISTS"
        " (SELECT 1 FROM rotations WHERE provider = ?1 AND lineage = ?2 AND closed_at IS NULL),"
        " (SELECT owner FROM holds WHERE provider = ?1 AND lineage = ?2)",
        (lineage.provider, lineage.id),
    ).fetchone()
    return not is_open and version == lineage.version, holder


def _lineage(version: int, body: bytes) -> Lineage:
    return replace(decode(body, Lineage), version=version)


def _readable(body: bytes) -> Event | None:
    try:
        return decode(body, Event)
    except Permanent:
        return None


def _noting(write: Write) -> Callable[[sqlite3.Connection], bool]:
    lineage = write.lineage
    if lineage is None or write.rotation is not None:
        raise ValueError("remember writes lineages and no rotations")

    def change(connection: sqlite3.Connection) -> bool:
        is_as_read, _ = _standing(connection, lineage)
        if not is_as_read or not _claimed(connection, lineage, write.claims):
            return False
        _put_lineage(connection, lineage)
        _put_claims(connection, lineage, write.claims)
        return True

    return change


def _put_lineage(connection: sqlite3.Connection, lineage: Lineage) -> None:
    """Write a lineage and raise its version, which is in the column alone: whatever the body says of it is old."""
    ((known,),) = connection.execute(
        "INSERT INTO lineages (provider, lineage, token_id, version, body) VALUES (?1, ?2, ?3, 1, ?4)"
        " ON CONFLICT (provider, lineage)"
        " DO UPDATE SET token_id = excluded.token_id, version = version + 1, body = excluded.body"
        " RETURNING (SELECT json_group_array(token_id) FROM members WHERE provider = ?1 AND lineage = ?2)",
        (lineage.provider, lineage.id, lineage.token_id, encode(lineage)),
    ).fetchall()
    members = {lineage.id, *lineage.members}
    if members == set(json.loads(known)):  # as nearly always: each statement may wait for the interpreter's lock
        return
    connection.executemany(
        "INSERT OR REPLACE INTO members VALUES (?, ?, ?)",
        [(lineage.provider, member, lineage.id) for member in members],
    )
    marks = ",".join("?" * len(members))
    sql = f"DELETE FROM members WHERE provider = ? AND lineage = ? AND token_id NOT IN ({marks})"  # noqa: S608 - only marks
    connection.execute(sql, (lineage.provider, lineage.id, *members))


def _claimed(connection: sqlite3.Connection, lineage: Lineage, claims: Sequence[tuple[str, str]]) -> bool:
    """Take the places that are free; False, with none taken, if another lineage owns one."""
    if not claims:
        return True
    marks = ",".join(["(?, ?)"] * len(claims))
    join = "CROSS JOIN places ON sink = column1 AND location = column2"  # in this order, for each is found by the index
    sql = f"SELECT provider, lineage FROM (VALUES {marks}) {join}"  # noqa: S608 - only marks
    found = connection.execute(sql, [word for claim in claims for word in claim]).fetchall()
    if any(owner != (lineage.provider, lineage.id) for owner in found):
        return False
    if len(found) < len(claims):
        _take(connection, lineage, claims)
    return True


def _put_claims(
    connection: sqlite3.Connection, lineage: Lineage, claims: tuple[tuple[str, str], ...], *, closes: bool = False
) -> None:
    """Let a lineage own these places and no others; without any, only what is over changes what it owns.

    What another lineage owns stays its: it may hold the only copy of that one's secret.
    """
    if closes and not claims and not lineage.stale:  # nothing of it lies where it never settled
        claims = tuple(claim for place in lineage.places for claim in place.claims)
    elif not claims and (lineage.gone_at is None or lineage.open_state is not None):
        return
    connection.execute("DELETE FROM places WHERE provider = ? AND lineage = ?", (lineage.provider, lineage.id))
    _take(connection, lineage, claims)


def _take(connection: sqlite3.Connection, lineage: Lineage, claims: Sequence[tuple[str, str]]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?)", [(*claim, lineage.provider, lineage.id) for claim in claims]
    )


def _heartbeat(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('heartbeat', x'01')")
