"""Where below a folder a token's file lies. Pure.

A value fills part of one path segment and cannot do more: everything but ASCII letters, digits, `_ . @ + -` and space
is percent-encoded as UTF-8, as are a leading dash and a dot or space at either end. The encoding is reversible, so two
names never share a file. Non-ASCII is encoded although it reads worse: a file system may normalise it (two names, one
file), and what counts as a letter changes with Python's Unicode tables, which would move files on an upgrade. Case is
kept; where the file system ignores it, give tokens names that differ by more.

What would exceed the 255 bytes of a file name keeps a readable start, then `=` and half a SHA-256 of the value: `=` is
never left bare by the encoding, so a shortened value equals no other one, and long legal names do not fail.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import partial

from rotator.errors import Permanent
from rotator.templates import PLACEHOLDERS, Template
from rotator.text import visible

RESERVED = ".rotator-"  # begins the names of temporary files, which are removed when found

_NAME_MAX = 255
_DIGEST = 32  # hexadecimal digits
_LEAST = _DIGEST + 16  # bytes that a value needs at least: a readable start, `=` and the digest
_UNSAFE = re.compile(r"^[.\- ]|[. ]$|[^A-Za-z0-9_.@+ -]")


def parse_path(text: str) -> tuple[Template, ...]:
    """Return the template of a path below the sink's folder, by segment.

    Raises:
        ValueError: It is absolute, leaves the folder, or a segment cannot be a file name; with the fix.
    """
    segments = Template.parse(text, PLACEHOLDERS).split("/")
    for segment in segments:
        _check(segment)
    return segments


def relative_path(segments: tuple[Template, ...], facts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the path for one token, by segment.

    Raises:
        Permanent: A placeholder is empty, or a segment is a name that rotator keeps for itself.
    """
    names = tuple(_rendered(segment, facts) for segment in segments)
    if any(name.startswith(RESERVED) for name in names):
        raise Permanent(f"the path for this token begins with {RESERVED}, which is kept for temporary files")
    return names


def encoded(value: str, longest: int = _NAME_MAX) -> str:
    """Return a value as (part of) a path segment; see above.

    Args:
        value: Untrusted, not empty.
        longest: In bytes.
    """
    text = _UNSAFE.sub(lambda found: _percent(found[0]), value)
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    start = re.sub(r"%.?\Z", "", text[: longest - _DIGEST - 1])
    return f"{start}={digest}"


def _check(segment: Template) -> None:
    literal = segment.literal
    if not segment.parts or (not segment.names and literal in (".", "..")):
        raise ValueError("must be a path below the directory, without empty parts, '.' or '..', such as 'astro/{name}'")
    if visible(literal, len(literal)) != literal or set(literal) & {"\\", "#"}:
        raise ValueError("must not contain backslashes, '#' or characters that cannot be seen")
    if literal.startswith(RESERVED):
        raise ValueError(f"must not begin with {RESERVED}, which is kept for temporary files")
    if len(literal.encode()) + _LEAST * len(segment.names) > _NAME_MAX:
        raise ValueError(f"one part of it is too long for a file name ({_NAME_MAX} bytes, {_LEAST} for a placeholder)")


def _rendered(segment: Template, facts: Mapping[str, str]) -> str:
    name = segment.render(facts, encoded)
    if len(name.encode()) <= _NAME_MAX:
        return name
    share = (_NAME_MAX - len(segment.literal.encode())) // len(segment.names)
    return segment.render(facts, partial(encoded, longest=share))


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
