"""One line of the audit trail: its canonical form, its hash, and whether it follows the one before. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

GENESIS = "0" * 64
LONGEST = 1 << 20  # bytes of a line; ours have a few hundred
_encode_canonically = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
_encode_plainly = msgspec.json.Encoder(order="sorted").encode
_encode_as_written = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain."""

    seq: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class Shipped:
    """How far the receiver of an audit trail has come.

    Attributes:
        head: The last line that it acknowledged.
        offered: The last one of a request whose answer was not seen; 0 if there is none.
    """

    head: Head
    offered: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is whole: its hash fits what it says.

    Attributes:
        head: What the next line has to follow.
        prev_hash: What it claims to follow.
        record: What it says, without `hash`.
    """

    head: Head
    prev_hash: str
    record: Mapping[str, Any]


def canonical(record: Mapping[str, object]) -> bytes:
    """Return RFC 8785's form of what a line holds: text, whole numbers and objects of these, under ASCII keys.

    Of anything else it may return another form; no line of ours holds it, so the hash of such a line is wrong anyway.
    """
    return _encode_canonically(record).encode()


def line_hash(prev_hash: str, record: Mapping[str, object]) -> str:
    """Return the hash of a line from what it holds besides."""
    return hashlib.sha256(prev_hash.encode() + canonical(record)).hexdigest()


def written(record: Mapping[str, object]) -> bytes:
    """Return a line as it is written: ASCII, one line."""
    return _encode_as_written(record).encode() + b"\n"


def linked(prev_hash: str, record: Mapping[str, object]) -> tuple[str, bytes]:
    """Return the hash of a line of ours and the line as it is written, from what it holds besides."""
    form = _encode_plainly(record)
    if not _is_plain(form):
        claimed = line_hash(prev_hash, record)
        return claimed, written({**record, "hash": claimed})
    claimed = hashlib.sha256(prev_hash.encode() + form).hexdigest()
    return claimed, msgspec.json.encode({**record, "hash": claimed}) + b"\n"


def parsed(raw: bytes) -> Line | str:
    """Return the line that these bytes are, or what is wrong with it taken by itself."""
    is_plain = _is_plain(raw)
    record = _plain_record(raw) if is_plain else _record(raw)
    if record is None:
        return "it is no audit line"
    claimed, seq, prev = record.pop("hash", None), record.get("seq"), record.get("prev_hash")
    if not isinstance(claimed, str) or type(seq) is not int or not isinstance(prev, str):
        return "it is no audit line"
    if not raw.endswith(b"\n"):
        return "it is cut off"
    try:
        form = _encode_plainly(record) if is_plain else canonical(record)
        actual = hashlib.sha256(prev.encode() + form).hexdigest()
    except UnicodeEncodeError:
        return "it is no audit line"
    if actual != claimed:
        return "it was edited: its hash does not match"
    return Line(Head(seq, actual), prev, record)


def link_problem(line: Line, before: Head | None) -> str:
    """Return why a line does not follow the one before; empty if it does.

    Args:
        line: Whole by itself.
        before: None for the first of all.
    """
    seq = line.head.seq
    if before is None:
        is_forged = seq < 1 or (seq == 1) != (line.prev_hash == GENESIS)
        return "it claims to be the first line, but continues another" if is_forged else ""
    if seq > before.seq + 1:
        first, last = before.seq + 1, seq - 1
        which = f"line seq {first} is" if first == last else f"lines seq {first} to {last} are"
        return f"it does not follow line seq {before.seq}: {which} missing"
    if seq <= before.seq:
        return f"it does not follow line seq {before.seq}: lines were removed, swapped, repeated or inserted"
    if line.prev_hash != before.hash:
        return f"it does not follow line seq {before.seq}: that one, or this one, was rewritten"
    return ""


def claimed_seq(raw: bytes) -> int:
    """Return the number that a line says it has, whether or not the rest of it fits; 0 if it says none."""
    seq = (_record(raw) or {}).get("seq")
    return seq if type(seq) is int else 0


def _is_plain(raw: bytes) -> bool:
    """Whether a line needs no escapes, as nearly always: a faster codec gives the same form then, in half the time."""
    return raw.isascii() and b"\\" not in raw and b"\x7f" not in raw


def _plain_record(raw: bytes) -> dict[str, Any] | None:
    try:
        record = msgspec.json.decode(raw, type=dict[str, Any])
        return record if msgspec.json.encode(record) == raw.rstrip() else _record(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _record(raw: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(raw)
        if not isinstance(record, dict):
            return None
        if raw.rstrip() != _encode_as_written(record).encode():
            # It was written by something else. One name twice would let a reader see what the hash does not cover.
            json.loads(raw, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError):
        return None
    return record


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found
