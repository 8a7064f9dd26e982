"""Writes the audit trail: one line an event, in a file that several processes share, or on a stream.

The journal calls `append` inside its commit, so that a line is on disk before the irreversible step that it announces.
The file is opened for each append: whatever log rotation does to it, by renaming or by copying and truncating, the
chain goes on from the head that the journal keeps, and no signal is needed.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rotator.audit.chain import Head, linked
from rotator.errors import AuditUnavailable
from rotator.events import Event, EventName
from rotator.timing import stamp

_TAIL_BYTES = 65536
_REOPENED = 100  # times; log rotation renames once


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes: `actor` is what runs (`sweep`, `settle`, …), `instance` one process."""

    actor: str
    instance: str


class AuditFile:
    """Appends to one file that several processes may share.

    Args:
        path: Created 0600.
        author: Goes into every line.
    """

    def __init__(self, path: Path, author: Author) -> None:
        self._path = path
        self._author = author
        self._known: tuple[int, int] | None = None
        self._head = Head()

    def append(self, events: Sequence[Event], last: Head | None, durable: bool) -> Head:
        """Write one line an event and return the new head.

        Args:
            events: In order.
            last: The head that the journal remembers; continues the chain when the file is new or was rotated away.
            durable: Wait until the lines are on disk.

        Raises:
            AuditUnavailable: They could not be written; whatever was begun is cut off again.
        """
        descriptor = self._locked()
        try:
            return self._append(descriptor, events, last, durable)
        except OSError as error:
            raise AuditUnavailable(f"cannot write the audit file {self._path}: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def _locked(self) -> int:
        """Open and lock the file that has the name now: it may be rotated away while we wait for the lock."""
        try:
            for _ in range(_REOPENED):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    if self._is_current(descriptor):
                        return descriptor
                except OSError:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        except OSError as error:
            raise AuditUnavailable(f"cannot open the audit file {self._path}: {error.strerror}") from None
        raise AuditUnavailable(f"the audit file {self._path} is replaced again and again")

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _append(self, descriptor: int, events: Sequence[Event], last: Head | None, durable: bool) -> Head:
        status = os.fstat(descriptor)
        size = status.st_size
        if self._known != (status.st_ino, size) or self._head != last:
            tail = _tail(descriptor, size)
            size = os.fstat(descriptor).st_size
            self._head = _latest(tail, last)
            if last is not None and tail is not None and tail.seq < last.seq:
                events = [_missing(events[0], tail, last), *events]
        lines, head = _chained(events, self._head, self._author)
        try:
            _write_all(descriptor, lines)
            if durable:
                os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, min(size, os.fstat(descriptor).st_size))  # it may have been truncated meanwhile
            self._known = None
            raise
        self._head, self._known = head, (status.st_ino, size + len(lines))
        return head


class AuditStream:
    """Appends to an open text stream: flushed, not durable, chained by the journal's head (`path = "-"`)."""

    def __init__(self, stream: TextIO, author: Author) -> None:
        self._stream = stream
        self._author = author

    def append(self, events: Sequence[Event], last: Head | None, durable: bool) -> Head:  # noqa: ARG002 - a stream has no disk
        """See `AuditFile.append`."""
        lines, head = _chained(events, last or Head(), self._author)
        try:
            self._stream.write(lines.decode())
            self._stream.flush()
        except (OSError, ValueError):
            raise AuditUnavailable("cannot write the audit stream") from None
        return head


def _chained(events: Sequence[Event], head: Head, author: Author) -> tuple[bytes, Head]:
    lines = bytearray()
    for event in events:
        record = _record(event, head, author)
        claimed, line = linked(head.hash, record)
        head = Head(head.seq + 1, claimed)
        lines += line
    return bytes(lines), head


def _record(event: Event, head: Head, author: Author) -> dict[str, object]:
    token = {"id": event.token_id, "name": event.token_name, "scope": event.token_scope} if event.token_id else None
    record: dict[str, object | None] = {
        "time": stamp(event.at),
        "seq": head.seq + 1,
        "event": str(event.name),
        "actor": author.actor,
        "instance": author.instance,
        "policy": event.policy,
        "provider": event.provider,
        "token": {key: _sound(text) for key, text in token.items()} if token else None,
        "rotation_id": event.rotation_id,
        "sink": event.sink,
        "location": _sound(event.location),
        "version": event.version,
        "outcome": event.outcome and str(event.outcome),
        "reason": event.reason and str(event.reason),
        "step": event.step and str(event.step),
        "error": event.error,
        "deadline": event.deadline and stamp(event.deadline),
        "expires_at": event.expires_at and stamp(event.expires_at),
        "tokens": event.tokens,
        "message": _sound(event.message),
    }
    return {key: value for key, value in record.items() if value} | {"prev_hash": head.hash}


def _sound(text: str) -> str:
    """Replace lone surrogates, which UTF-8 and so RFC 8785 cannot carry."""
    return text.encode("utf-8", "replace").decode()


def _latest(tail: Head | None, last: Head | None) -> Head:
    """Return what the next line follows: the file's end, or the journal's head where the file ends before it.

    A file that ends later has lines of a process that died before its journal knew of them.
    """
    if tail is None or (last is not None and last.seq >= tail.seq):
        return last or Head()
    return tail


def _missing(event: Event, tail: Head, last: Head) -> Event:
    said = f"the audit file ended at line seq {tail.seq}, the journal remembers {last.seq}: the lines between are gone"
    return Event(name=EventName.AUDIT_LINES_MISSING, at=event.at, message=said)


def _tail(descriptor: int, size: int) -> Head | None:
    """Return the head that the file itself shows, and cut off a line that a crash left half written."""
    wanted, block = _TAIL_BYTES, b""
    while b"\n" not in block[:-1] and len(block) < size:  # a whole line, with the end of the one before
        block = os.pread(descriptor, wanted, max(0, size - wanted))
        wanted *= 2
    whole = block[: block.rfind(b"\n") + 1]
    if len(whole) < len(block):
        os.ftruncate(descriptor, size - (len(block) - len(whole)))  # it was never announced: no step waited for it
    if not whole:
        return None
    try:
        last = json.loads(whole[whole.rfind(b"\n", 0, -1) + 1 :])
        return Head(int(last["seq"]), str(last["hash"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AuditUnavailable("the last line of the audit file is damaged; move the file away and keep it") from error


def _write_all(descriptor: int, lines: bytes) -> None:
    view = memoryview(lines)
    while view:
        view = view[os.write(descriptor, view) :]
