"""Group commit: one thread writes for all, so that sixteen waiting workers share one fsync.

Every batch holds the inter-process lock. SQLite before 3.51.3 can lose committed frames when one connection commits
while another one checkpoints (the WAL-reset bug), so neither ever happens without this lock.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from rotator.audit import Head
from rotator.errors import AuditUnavailable, RotatorError, Temporary
from rotator.events import Event
from rotator.journal.lock import FileLock
from rotator.journal.rows import decode, encode, translated

_ROWS = 64  # of history in one statement: every statement may cost a wait for the interpreter's lock


class Trail(Protocol):
    """Where audit lines go."""

    def append(self, events: Sequence[Event], last: Head | None, durable: bool) -> Head:
        """Write the lines, return the new head; raises AuditUnavailable."""
        ...


@dataclass(slots=True)
class Job:
    """One atomic change.

    Attributes:
        change: Runs inside the transaction; returns whether it did anything worth announcing. If it raises an error
            of ours, it has changed nothing.
        result: Resolved when the batch is committed.
    """

    change: Callable[[sqlite3.Connection], object]
    events: tuple[Event, ...] = ()
    must_audit: bool = False
    durable: bool = True
    result: "Future[object]" = field(default_factory=Future)


class Writer:
    """Owns the only writing connection.

    Args:
        connection: In autocommit mode, usable from another thread.
        lock: Between processes.
        trail: The audit; its head is kept in the journal.
        on_audit_failure: Told, once a batch, that lines are missing; what it raises is swallowed.
    """

    def __init__(
        self, connection: sqlite3.Connection, lock: FileLock, trail: Trail, on_audit_failure: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._trail = trail
        self._on_audit_failure = on_audit_failure
        self._level = ""
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._has_ended = False
        self._thread = threading.Thread(target=self._loop, name="journal", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> object:
        """Wait until the change is committed; raises what it raised, Temporary if the journal is closed."""
        self._put(job)
        return job.result.result()

    def submit_all(self, jobs: Sequence[Job]) -> list[object]:
        """Wait until all changes are committed, in as few commits as it takes; raises what the first of them raised."""
        for job in jobs:
            self._put(job)
        return [job.result.result() for job in jobs]

    def close(self) -> None:
        """Finish what is queued and stop."""
        self._queue.put(None)
        self._thread.join()

    def _put(self, job: Job) -> None:
        with self._gate:
            if self._has_ended:
                _fail([job], Temporary("the journal is closed"))
            else:
                self._queue.put(job)

    def _loop(self) -> None:
        batch: list[Job] = []
        try:
            while batch := self._batch():
                try:
                    self._commit(batch)
                except Exception as error:  # noqa: BLE001 - boundary "job": a dead writer would leave workers waiting
                    _fail(batch, translated(error))
        finally:
            with self._gate:
                self._has_ended = True
            while not self._queue.empty():
                batch += [job for job in [self._queue.get()] if job is not None]
            _fail(batch, Temporary("the journal is closed"))

    def _batch(self) -> list[Job]:
        """Wait for jobs and return all that are queued; nothing once it is closed."""
        batch: list[Job] = []
        while not batch or not self._queue.empty():
            job = self._queue.get()
            if job is None:
                self._queue.put(None)  # found again by the next call
                return batch
            batch.append(job)
        return batch

    def _commit(self, batch: list[Job]) -> None:
        with self._lock.held():
            missing = self._transaction(batch)
        if missing:
            self._on_audit_failure(missing)

    def _transaction(self, batch: list[Job]) -> str:
        """Commit the batch; return why audit lines are missing, empty if none are."""
        self._synchronize("FULL" if any(job.durable for job in batch) else "NORMAL")
        try:
            self._run(batch, audited=True)
        except AuditUnavailable as error:
            optional = [job for job in batch if not job.must_audit]
            for job in batch:
                if job.must_audit:
                    job.result.set_exception(error)
            if optional:
                self._run(optional, audited=False)
            return error.message if any(job.events for job in optional) else ""
        return ""

    def _synchronize(self, level: str) -> None:
        if level != self._level:
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._level = level

    def _run(self, batch: list[Job], *, audited: bool) -> None:
        outcomes: list[tuple[Job, object]] = []
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for job in batch:
                outcomes.append((job, self._attempt(job)))
            events = [event for job, outcome in outcomes if not _came_to_nothing(outcome) for event in job.events]
            if events:
                self._remember(events)
                if audited:
                    self._announce(events, durable=any(job.durable for job in batch))
            elif audited and any(job.must_audit for job in batch):  # a preflight: could a line be written?
                self._trail.append((), self._last(), durable=False)
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        for job, outcome in outcomes:
            if isinstance(outcome, RotatorError):
                job.result.set_exception(outcome)
            else:
                job.result.set_result(outcome)

    def _attempt(self, job: Job) -> object:
        """Run one change; one that refuses changed nothing, so it does not spoil its neighbours."""
        before = self._connection.total_changes
        try:
            return job.change(self._connection)
        except RotatorError as error:
            if self._connection.total_changes != before:
                raise
            return error

    def _remember(self, events: Sequence[Event]) -> None:
        rows = [(event.token_id, event.rotation_id, encode(event)) for event in events]
        for start in range(0, len(rows), _ROWS):
            chunk = rows[start : start + _ROWS]
            marks = ",".join(["(?, ?, ?)"] * len(chunk))
            sql = f"INSERT INTO history (token_id, rotation_id, body) VALUES {marks}"  # noqa: S608 - only marks
            self._connection.execute(sql, [value for row in chunk for value in row])

    def _last(self) -> Head | None:
        row = self._connection.execute("SELECT value FROM meta WHERE key = 'audit_head'").fetchone()
        return decode(row[0], Head) if row else None

    def _announce(self, events: Sequence[Event], *, durable: bool) -> None:
        head = self._trail.append(events, self._last(), durable)
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('audit_head', ?)", (encode(head),))


def _fail(jobs: Sequence[Job], error: RotatorError) -> None:
    for job in jobs:
        if not job.result.done():
            job.result.set_exception(error)


def _came_to_nothing(outcome: object) -> bool:
    return outcome is False or isinstance(outcome, RotatorError)
