"""Rows of the journal to values and back, and SQLite's failures to ours."""

import sqlite3
from typing import TypeVar

import msgspec

from rotator.errors import Permanent, RotatorError, Temporary

T = TypeVar("T")

_TEMPORARY = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked",
    sqlite3.SQLITE_FULL: "has no space left on its volume",
    sqlite3.SQLITE_IOERR: "could not be read or written (disk full or failing?)",
    sqlite3.SQLITE_NOMEM: "ran out of memory",
}
_PERMANENT = {
    sqlite3.SQLITE_CORRUPT: "is damaged; move it away and restore a backup",
    sqlite3.SQLITE_NOTADB: "is not a rotator journal, or damaged; move it away or restore a backup",
    sqlite3.SQLITE_READONLY: "cannot be written; check owner and mount",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its folder exists and can be written",
    sqlite3.SQLITE_PERM: "cannot be opened; check its owner",
}

_encoder = msgspec.json.Encoder()
encode = _encoder.encode


def decode(body: bytes, kind: type[T]) -> T:
    """Return the value a row holds; keys of newer versions are ignored.

    Raises:
        Permanent: The row does not fit.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        raise Permanent(f"the journal holds a {kind.__name__.lower()} that this version cannot read") from None


def translated(error: Exception) -> RotatorError:
    """Return our error for one of SQLite's; its text may quote a row, so only the code is kept."""
    if isinstance(error, RotatorError):
        return error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _TEMPORARY:
        return Temporary(f"the journal {_TEMPORARY[code]}")
    return Permanent(f"the journal {_PERMANENT.get(code, f'failed with {type(error).__name__} (SQLite code {code})')}")
