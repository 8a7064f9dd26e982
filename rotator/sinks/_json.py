"""Keys of the object that a JSON file holds, every other byte of which stays as it is. Pure.

The text is spliced, never parsed and written anew: a neighbour `1.10`, `1e400`, a long integer, an escape, a doubled
key and the layout would not survive that. Of a key that is set twice readers take the last, so all are replaced.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_SPACE = re.compile(r"[ \t\n\r]*")
# Numbers stay text: nobody needs their value, and very long integers would be refused.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_INDENT = "\n  "


@dataclass(frozen=True, slots=True)
class _Member:
    """One key of the object: where it and its value stand."""

    key: str
    key_at: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Document:
    """An object in its text; `opened` is just behind its brace."""

    text: str = field(repr=False)
    opened: int
    members: tuple[_Member, ...]


def problem(content: bytes) -> str:
    """Return why keys cannot be set in this file, empty if they can."""
    return "" if not content.strip() or _document(content) else "it does not hold one JSON object"


def merge(content: bytes, fields: Mapping[str, str]) -> bytes:
    """Return the file with these top-level keys set: where they stand, or behind the last one.

    Args:
        content: One that has no `problem`.
        fields: Key to plain text.
    """
    document = _document(content) or _Document("{}\n", 1, ())
    text = document.text
    present = {member.key for member in document.members}
    added = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items() if key not in present]
    text = _extended(document, added)
    for member in reversed(document.members):
        if member.key in fields:
            text = text[: member.start] + json.dumps(fields[member.key]) + text[member.end :]
    return text.encode()


def value(content: bytes, key: str) -> str | None:
    """Return what readers take for the key, None if it is absent; a value that is no string comes as its text."""
    document = _document(content)
    found = [member for member in document.members if member.key == key] if document else []
    if document is None or not found:
        return None
    text = document.text[found[-1].start : found[-1].end]
    parsed = _DECODER.decode(text)
    return parsed if isinstance(parsed, str) and text.startswith('"') else text


def keys(content: bytes) -> frozenset[str]:
    """Return the top-level keys; none if it does not hold one JSON object."""
    document = _document(content)
    return frozenset(member.key for member in document.members) if document else frozenset()


def _document(content: bytes) -> _Document | None:
    try:
        return _scanned(content.decode())
    except (ValueError, RecursionError):
        return None


def _scanned(text: str) -> _Document:
    """Return the object and its members; raises ValueError if the text holds anything else."""
    opened = _behind(text, 1 if text.startswith("\ufeff") else 0, "{")
    members: list[_Member] = []
    at = _skip(text, opened)
    while not text.startswith("}", at):
        key_at = _skip(text, _behind(text, at, ",")) if members else at
        if not text.startswith('"', key_at):
            raise ValueError
        key, end = _DECODER.raw_decode(text, key_at)
        start = _skip(text, _behind(text, end, ":"))
        _, end = _DECODER.raw_decode(text, start)
        members.append(_Member(key, key_at, start, end))
        at = _skip(text, end)
    if _skip(text, at + 1) != len(text):
        raise ValueError
    return _Document(text, opened, tuple(members))


def _behind(text: str, at: int, character: str) -> int:
    at = _skip(text, at)
    if not text.startswith(character, at):
        raise ValueError
    return at + 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _extended(document: _Document, added: list[str]) -> str:
    """Return the text with members added behind the last, laid out as that one is."""
    text, members = document.text, document.members
    if not added:
        return text
    if not members:
        closing = _skip(text, document.opened)
        return text[: document.opened] + _INDENT + f",{_INDENT}".join(added) + "\n" + text[closing:]
    before = text[: members[-1].key_at]
    gap = before[len(before.rstrip(" \t\n\r")) :] or " "
    return text[: members[-1].end] + "".join(f",{gap}{row}" for row in added) + text[members[-1].end :]
