"""The audit trail: JSON lines that people can prove, each chained to the one before.

The journal calls `append` inside its commit, so that a line is on disk before the irreversible step that it announces.
`hash` is the SHA-256, in hex, of `prev_hash` followed by the canonical JSON (RFC 8785) of the line without `hash`. The
first `prev_hash` is 64 zeros. Lines never hold a secret; all text is ASCII-escaped JSON, so that no name can forge a
line or reach a terminal.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rotator.errors import AuditUnavailable, ConfigError
from rotator.events import Event
from rotator.timing import stamp

GENESIS = "0" * 64
_TAIL_BYTES = 65536
_encode_canonically = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain."""

    seq: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        lines: Good lines before the first bad one.
        bad_line: Its number, from 1; None if all are good.
        first_seq: Of the first line; more than 1 after a log rotation.
        head: Of the last good line.
    """

    lines: int
    head: Head
    first_seq: int
    bad_line: int | None = None
    problem: str = ""


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
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AuditUnavailable(f"cannot open the audit file {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return self._append(descriptor, events, last, durable)
        except OSError as error:
            raise AuditUnavailable(f"cannot write the audit file {self._path}: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, events: Sequence[Event], last: Head | None, durable: bool) -> Head:
        status = os.fstat(descriptor)
        size = status.st_size
        if self._known != (status.st_ino, size):
            self._head = _tail(descriptor, size) or last or Head()
            size = os.fstat(descriptor).st_size
        lines, head = _chained(events, self._head, self._author)
        try:
            _write_all(descriptor, lines)
            if durable:
                os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            self._known = None
            raise
        self._head, self._known = head, (status.st_ino, size + len(lines))
        return head


class AuditStream:
    """Appends to an open text stream: flushed, not durable, one chain a process (`path = "-"`)."""

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


def verify(path: Path) -> Verification:
    """Walk a file and report the first line that breaks the chain.

    Raises:
        ConfigError: The file cannot be read.
    """
    first_seq, lines, head = 0, 0, None
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                record, problem = _checked(raw, head)
                if record is None:
                    return Verification(lines, head or Head(), first_seq, number, problem)
                head, lines = record, number
                first_seq = first_seq or record.seq
    except OSError as error:
        raise ConfigError.of("", f"cannot read {path}: {error.strerror}") from None
    return Verification(lines, head or Head(), first_seq)


def _checked(raw: bytes, before: Head | None) -> tuple[Head | None, str]:
    try:
        line = json.loads(raw)
        claimed, seq, prev = line.pop("hash"), int(line["seq"]), str(line["prev_hash"])
        actual = _hash(prev, line)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, "it is no audit line"
    if not raw.endswith(b"\n"):
        return None, "it is cut off"
    if actual != claimed:
        return None, "it was edited: its hash does not match"
    if before is None:
        if seq == 1 and prev != GENESIS:
            return None, "it claims to be the first line, but continues another"
        return Head(seq, actual), ""
    if prev != before.hash or seq != before.seq + 1:
        return None, f"it does not follow line seq {before.seq}: lines were removed, swapped or inserted"
    return Head(seq, actual), ""


def _chained(events: Sequence[Event], head: Head, author: Author) -> tuple[bytes, Head]:
    lines = bytearray()
    for event in events:
        record = _record(event, head, author)
        head = Head(head.seq + 1, _hash(head.hash, record))
        lines += json.dumps({**record, "hash": head.hash}, separators=(",", ":")).encode() + b"\n"
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
        "message": _sound(event.message),
    }
    return {key: value for key, value in record.items() if value} | {"prev_hash": head.hash}


def _sound(text: str) -> str:
    """Replace lone surrogates, which UTF-8 and so RFC 8785 cannot carry."""
    return text.encode("utf-8", "replace").decode()


def _hash(prev_hash: str, record: dict[str, object]) -> str:
    return hashlib.sha256(prev_hash.encode() + canonical(record)).hexdigest()


def canonical(record: dict[str, object]) -> bytes:
    """Return RFC 8785's form of what a line holds: text, whole numbers and objects of these, under ASCII keys.

    Of anything else it may return another form; no line of ours holds it, so the hash of such a line is wrong anyway.
    """
    return _encode_canonically(record).encode()


def _tail(descriptor: int, size: int) -> Head | None:
    """Return the head that the file itself shows, and cut off a line that a crash left half written."""
    block = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    whole = block[: block.rfind(b"\n") + 1]
    if len(whole) < len(block):
        os.ftruncate(descriptor, size - (len(block) - len(whole)))  # it was never announced: no step waited for it
    if not whole:
        return None
    try:
        last = json.loads(whole.splitlines()[-1])
        return Head(int(last["seq"]), str(last["hash"]))
    except (ValueError, KeyError, TypeError) as error:
        raise AuditUnavailable("the last line of the audit file is damaged; move the file away and keep it") from error


def _write_all(descriptor: int, lines: bytes) -> None:
    view = memoryview(lines)
    while view:
        view = view[os.write(descriptor, view) :]
