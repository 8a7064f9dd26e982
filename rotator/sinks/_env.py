"""Keys in an env file, every other byte of which stays as it is. Pure.

Shells, python-dotenv, systemd and `docker --env-file` read such files, each a little differently. Values are written
bare where all agree, otherwise in quotes (which Docker would keep), otherwise not at all. A quoted value may span
lines; what looks like a key inside it is not one. Of a key that is set twice readers take the last, so all are
replaced.
"""

import re
from collections.abc import Mapping

KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Bytes, because neighbours may be in any encoding. A backslash before the line's end continues a bare value.
_STATEMENT = re.compile(
    rb"""
    ^(?P<head> [ \t]* (?:export[ \t]+)? ) (?P<key> [A-Za-z_][A-Za-z0-9_]* ) [ \t]* = [ \t]*
    (?: " (?P<double> (?: [^"\\] | \\[\s\S] )* ) " [^\r\n]*
      | ' (?P<single> [^']* ) ' [^\r\n]*
      | (?P<bare> (?: [^\\\r\n] | \\\r?\n | \\ | \r(?!\n) )* ) )
    """,
    re.MULTILINE | re.VERBOSE,
)
# What else such files hold: comments, exports, and names that only some readers know. A name alone is Docker's way to
# pass on its own variable; where nothing is set beside it, it may be anything, a secret too.
_OTHER = re.compile(rb"(?:[#;].*|export[ \t]+[A-Za-z0-9_ \t]+|[A-Za-z0-9_.\-][A-Za-z0-9_.\- \t]*\+?=.*)?")
_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CONTINUED = re.compile(rb"\\\r?\n\Z")
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")


def problem(content: bytes) -> str:
    """Return why keys cannot be set in this file, empty if they can."""
    for found in _STATEMENT.finditer(content):
        if (found["bare"] or b"").startswith((b'"', b"'")):
            return f"the value of {found['key'].decode()} opens a quote that nothing closes"
    return ""


def foreign(content: bytes) -> str:
    """Return why a file is no env file, to which no line may be added; empty if it is one."""
    rest = _STATEMENT.sub(lambda found: b"\n" * found[0].count(b"\n"), content.removeprefix(_BYTE_ORDER_MARK))
    is_set = holds_keys(content)
    for number, line in enumerate(map(bytes.strip, rest.split(b"\n")), start=1):
        if not _OTHER.fullmatch(line) and not (is_set and _NAME.fullmatch(line)):
            return f"it is no env file (line {number} is neither an assignment nor a comment)"
    return ""


def holds_keys(content: bytes) -> bool:
    """Whether any key is set in this file."""
    return _STATEMENT.search(content) is not None


def unwritable(fields: Mapping[str, str]) -> str:
    """Return which key has a value that readers would not agree on, empty if none has; never the value."""
    return next((key for key, value in fields.items() if _quoted(value) is None), "")


def merge(content: bytes, fields: Mapping[str, str]) -> bytes:
    """Return the file with these keys set: where they stand, or at its end.

    Args:
        content: One that has no `problem`.
        fields: None of them `unwritable`.
    """
    values = {key.encode(): (_quoted(value) or "").encode() for key, value in fields.items()}

    def replaced(found: re.Match[bytes]) -> bytes:
        key = found["key"]
        return found["head"] + key + b"=" + values[key] if key in values else found[0]

    present = {found["key"] for found in _STATEMENT.finditer(content)}
    added = [key + b"=" + value for key, value in values.items() if key not in present]
    return _extended(_STATEMENT.sub(replaced, content), added)


def value(content: bytes, key: str) -> str | None:
    """Return what readers take for the key, None if it is not set."""
    last = None
    for found in _STATEMENT.finditer(content):
        if found["key"] == key.encode():
            last = found
    if last is None:
        return None
    if last["bare"] is None:
        inner: bytes = last["double"] if last["single"] is None else last["single"]
        return inner.decode(errors="replace")
    return re.split(rb"[ \t]#", last["bare"])[0].strip().decode(errors="replace")


def _extended(content: bytes, lines: list[bytes]) -> bytes:
    if not lines:
        return content
    end = b"\r\n" if b"\r\n" in content else b"\n"
    while content and (not content.endswith(b"\n") or _CONTINUED.search(content)):
        content += end
    return content + b"".join(line + end for line in lines)


def _quoted(value: str) -> str | None:
    """Return the value as all readers understand it, None if they would not agree."""
    if _BARE.fullmatch(value):
        return value
    if not value.isprintable() or set(value) & {"\\", "$"}:
        return None
    if "'" not in value:
        return f"'{value}'"
    return None if set(value) & {'"', "`", "!"} else f'"{value}"'
